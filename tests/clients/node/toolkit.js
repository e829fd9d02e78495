// What scenarios are written with. Runs in Node and in a page alike, so it knows nothing of either.

const PATIENCE_MS = 10_000 // how long anything may take before a scenario says that it never comes

// Turns into a rejection what takes too long; *describe* says what was waited for, and what came.
export function within(promise, describe, patience = PATIENCE_MS) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${patience} ms for ${describe()}`)), patience)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// What came, in order, and a way to wait for the next of it.
export class Inbox {
  #unread = []
  #readers = []
  #all = []

  constructor(name) {
    this.name = name
  }

  put(item) {
    this.#all.push(item)
    const reader = this.#readers.shift()
    reader ? reader(item) : this.#unread.push(item)
  }

  next(patience) {
    if (this.#unread.length) return Promise.resolve(this.#unread.shift())
    const item = new Promise((resolve) => this.#readers.push(resolve))
    return within(item, () => `${this.name}; so far: ${JSON.stringify(this.#all)}`, patience)
  }

  async take(count) {
    const items = []
    while (items.length < count) items.push(await this.next())
    return items
  }

  // Everything that came and was not read: say that nothing more is under way before you ask.
  rest() {
    return this.#unread.splice(0)
  }
}

// Puts [name, data, metadata] of these events of a channel, connection or user into an Inbox.
export function hear(emitter, ...names) {
  const inbox = new Inbox(`${names.join(' or ')} on ${emitter.name ?? 'the connection'}`)
  for (const name of names) {
    emitter.bind(name, (data, metadata) => inbox.put([name, data ?? null, metadata ?? null]))
  }
  return inbox
}

// Puts [name, data] of every event of a channel into an Inbox, the library's own events too.
export function hearAll(channel) {
  const inbox = new Inbox(`anything on ${channel.name}`)
  channel.bind_global((name, data) => inbox.put([name, data ?? null]))
  return inbox
}

// Subscribes, and returns the channel when the server has said yes.
export async function joined(pusher, name) {
  const channel = pusher.subscribe(name)
  if (!channel.subscribed) await hear(channel, 'pusher:subscription_succeeded').next()
  return channel
}

// Waits until the server has done all that *pusher* asked of it: it works through a socket in order.
let passed = 0
export async function settled(pusher) {
  passed += 1
  const name = `settled-${passed}-${pusher.sessionID}`
  await joined(pusher, name)
  pusher.unsubscribe(name)
}

export function membersOf(channel) {
  const { members, count, me } = channel.members
  return { members: { ...members }, count, me }
}

// One scenario's place to play: it makes clients, reaches the backend, and clears up.
export class Stage {
  #clients = []

  // *runtime*: {Pusher, Echo, HeliographResume, backend(name, ...args), reached(mark)}; *settings*:
  // what driver.js says.
  constructor({ Pusher, Echo, HeliographResume, backend, reached }, settings) {
    this.Pusher = Pusher
    this.Echo = Echo
    this.HeliographResume = HeliographResume
    this.backend = async (...call) => backend(...call)
    this.reached = reached
    this.settings = settings
  }

  // The options that a page of a self-hosted server's user has. *user* is who the backend sees.
  options({ user = 'ann', app = 'main', ...options } = {}) {
    return {
      cluster: '',
      wsHost: this.settings.wsHost,
      wsPort: this.settings.wsPort,
      forceTLS: false,
      enabledTransports: ['ws', 'wss'],
      channelAuthorization: {
        endpoint: `${this.settings.site}/broadcasting/auth`,
        headers: { Authorization: `Bearer ${user}` },
        params: { app },
      },
      userAuthentication: {
        endpoint: `${this.settings.site}/broadcasting/user-auth`,
        headers: { Authorization: `Bearer ${user}` },
        params: { app },
      },
      ...options,
    }
  }

  client({ app = 'main', key = this.settings.apps[app].key, ...options } = {}) {
    const pusher = new this.Pusher(key, this.options({ app, ...options }))
    this.#clients.push(pusher)
    return pusher
  }

  async connected(options) {
    const pusher = this.client(options)
    await hear(pusher.connection, 'connected').next()
    return pusher
  }

  // A laravel-echo as Laravel's own starter files make it.
  echo(broadcaster, { user = 'ann', ...options } = {}) {
    const echo = new this.Echo({
      broadcaster,
      key: this.settings.apps.main.key,
      ...(broadcaster === 'pusher' ? { cluster: '' } : {}), // the reverb driver sets it itself
      wsHost: this.settings.wsHost,
      wsPort: this.settings.wsPort,
      wssPort: this.settings.wsPort,
      forceTLS: false,
      enabledTransports: ['ws', 'wss'],
      authEndpoint: `${this.settings.site}/broadcasting/auth`,
      // Not bearerToken: Echo keeps that in an object that all Echos of a page share.
      auth: { headers: { Authorization: `Bearer ${user}` } },
      ...(typeof window === 'undefined' ? { Pusher: this.Pusher } : {}),
      ...options,
    })
    this.#clients.push(echo)
    return echo
  }

  // Publishes as an application does, with the official SDK; returns what the server answered.
  trigger(channels, name, data, params = {}) {
    return this.backend('sdk', 'main', 'trigger', channels, name, data, params)
  }

  close() {
    for (const client of this.#clients.splice(0)) client.disconnect()
  }
}

// Runs one scenario, and returns what it returns.
export async function play(scenario, runtime, settings, params) {
  const stage = new Stage(runtime, settings)
  try {
    return await scenario(stage, params)
  } finally {
    stage.close()
  }
}
