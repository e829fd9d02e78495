// Pages with the add-on to pusher-js, whose connections are cut while they play.
//
// The publisher sends numbers, and marks: {"mark": name}. When all channels have received a mark,
// the test is notified; the mark "end" ends the scenario. It returns what each channel received, in
// order: the numbers, and [name, data] of the add-on's own events.

import { within } from './toolkit.js'

const RESUMING_MS = 40_000 // in which a test cuts connections, and pusher-js connects again

const PLACED = ['pusher_internal:position', 'pusher_internal:gap']

class Recorder {
  // *live*: the messages after which a channel receives live events.
  constructor(stage, pusher, channels, live = PLACED) {
    this.received = Object.fromEntries(channels.map((name) => [name, []]))
    this.marks = new Map()
    this.stage = stage
    this.size = channels.length
    this.sockets = new Set()
    this.placed = 0
    this.live = new Promise((resolve) => {
      this.begin = resolve
    })
    this.end = new Promise((resolve) => {
      this.finish = resolve
    })
    pusher.connection.bind('message', ({ event }) => {
      this.sockets.add(pusher.connection.socket_id)
      if (!live.includes(event)) return
      this.placed += 1
      if (this.placed % this.size !== 0) return
      this.stage.reached('live')
      this.begin()
    })
  }

  put(name, data) {
    if (data?.mark === undefined) this.received[name].push(data)
    else this.mark(data.mark)
  }

  mark(name) {
    const count = (this.marks.get(name) ?? 0) + 1
    this.marks.set(name, count)
    if (count !== this.size) return
    if (name === 'end') this.finish()
    else this.stage.reached(name)
  }

  async result(rest) {
    await within(this.end, () => `the end; so far: ${JSON.stringify(this.received)}`, RESUMING_MS)
    return { received: this.received, sockets: this.sockets.size, ...rest() }
  }

  // Records what a channel of pusher-js receives.
  follow(channel) {
    channel.bind('said', (data) => this.put(channel.name, data))
    for (const event of ['heliograph:resumed', 'heliograph:gap']) {
      channel.bind(event, (data) => this.put(channel.name, [event, data]))
    }
  }
}

export async function resumes(stage, { channels, positions = {}, live }) {
  const pusher = stage.client()
  const resume = stage.HeliographResume(pusher, { positions })
  const recorder = new Recorder(stage, pusher, channels, live)
  for (const name of channels) recorder.follow(pusher.subscribe(name))
  return recorder.result(() => ({
    positions: Object.fromEntries(channels.map((name) => [name, resume.position(name)])),
  }))
}

export async function resumesThroughEcho(stage, { broadcaster, channel: name }) {
  const echo = stage.echo(broadcaster)
  const { pusher } = echo.connector
  stage.HeliographResume(pusher)
  const whole = `private-${name}`
  const recorder = new Recorder(stage, pusher, [whole])
  const channel = echo.private(name).listen('.said', (data) => recorder.put(whole, data))
  for (const event of ['heliograph:resumed', 'heliograph:gap']) {
    channel.listen(`.${event}`, (data) => recorder.put(whole, [event, data]))
  }
  return recorder.result(() => ({}))
}

// Publishes with the page's socket id, before its connection is cut and afterwards.
export async function isLeftOutOfMissedEvents(stage, { channel: name }) {
  const pusher = stage.client()
  const resume = stage.HeliographResume(pusher)
  const recorder = new Recorder(stage, pusher, [name])
  const away = new Promise((resolve) => {
    pusher.connection.bind('state_change', ({ previous }) => previous === 'connected' && resolve())
  })
  recorder.follow(pusher.subscribe(name))
  await recorder.live
  resume.start(name, { epoch: 'too late', offset: 0 })
  const { socket_id } = pusher.connection
  await stage.trigger(name, 'said', 'its own, before', { socket_id })
  stage.reached('published')
  await away
  await stage.trigger(name, 'said', 'its own, meanwhile', { socket_id })
  await stage.trigger(name, 'said', 'from others')
  stage.reached('away')
  return recorder.result(() => ({}))
}

// A stock page: returns every message of the connection after the greeting.
export async function receivesFrames(stage, { channel: name }) {
  const pusher = stage.client()
  const frames = []
  pusher.connection.bind('message', (frame) => frames.push(frame))
  const channel = pusher.subscribe(name)
  const recorder = new Recorder(stage, pusher, [name])
  recorder.follow(channel)
  channel.bind('pusher:subscription_succeeded', () => stage.reached('subscribed'))
  return recorder.result(() => ({ frames }))
}

// The page's position when a handler runs, after unsubscribe, and across disconnect and connect.
export async function keepsPositions(stage, { channel: name, position }) {
  const pusher = stage.client()
  const resume = stage.HeliographResume(pusher)
  const same = stage.HeliographResume(pusher) === resume
  const recorder = new Recorder(stage, pusher, [name])
  const seen = {}
  const channel = pusher.subscribe(name)
  recorder.follow(channel)
  channel.bind('said', (data) => {
    if (data === 1) seen.inHandler = resume.position(name)
    if (data !== 2) return
    seen.before = resume.position(name)
    pusher.disconnect()
    seen.disconnected = resume.position(name)
    pusher.connect()
  })
  channel.bind('heliograph:resumed', () => {
    pusher.unsubscribe(name)
    seen.unsubscribed = resume.position(name)
    resume.start(name, position)
    seen.started = resume.position(name)
    recorder.follow(pusher.subscribe(name))
  })
  return recorder.result(() => {
    pusher.unsubscribe(name)
    pusher.subscribe(name)
    return { same, ...seen, again: resume.position(name) }
  })
}

// Hands the connection messages that a server sends in other circumstances, or never; returns the
// position after each. The page has another channel, and none with the name "unknown".
export async function ignoresMessages(stage, { channel: name, other, messages }) {
  const pusher = stage.client()
  const resume = stage.HeliographResume(pusher)
  const recorder = new Recorder(stage, pusher, [name, other])
  recorder.follow(pusher.subscribe(name))
  recorder.follow(pusher.subscribe(other))
  await recorder.live
  const positions = messages.map((message) => {
    pusher.connection.emit('message', message)
    return resume.position(name)
  })
  // The page subscribes anew, and has yet to be answered.
  pusher.unsubscribe(name)
  resume.start(name, { epoch: 'e', offset: 7 })
  recorder.follow(pusher.subscribe(name))
  for (const event of ['next_position', 'position', 'gap']) {
    const data = { epoch: 'f', offset: 8 }
    pusher.connection.emit('message', { event: `pusher_internal:${event}`, channel: name, data })
    pusher.connection.emit('message', { event: 'other', channel: name })
  }
  return { positions, others: resume.position(other), pending: resume.position(name), received: recorder.received }
}

// The add-on is loaded late, when the channel is already subscribed.
export async function resumesLate(stage, { channel: name }) {
  const pusher = stage.client()
  const recorder = new Recorder(stage, pusher, [name])
  const channel = pusher.subscribe(name)
  recorder.follow(channel)
  channel.bind('pusher:subscription_succeeded', () => stage.reached('subscribed'))
  await new Promise((resolve) => channel.bind('pusher:subscription_succeeded', resolve))
  const resume = stage.HeliographResume(pusher)
  const atFirst = resume.position(name)
  return recorder.result(() => ({ atFirst, atLast: resume.position(name) }))
}
