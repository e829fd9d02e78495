// What people do with pusher-js and laravel-echo, played in Node and in a page.
//
// A scenario returns what its clients saw, as plain data; the test that plays it says what that
// must be. Nothing waits for time to pass: that something does not come is shown by what comes
// in its place.

export * from './resume.js'

import { hear, hearAll, Inbox, joined, membersOf, settled } from './toolkit.js'

// -- Channels ------------------------------------------------------------------------------

export async function receivesWhatIsPublished(stage, { channel: name, data }) {
  const channel = await joined(await stage.connected(), name)
  const heard = hear(channel, 'said')
  const answers = []
  for (const one of data) answers.push(await stage.trigger(name, 'said', one))
  return { answers, heard: await heard.take(data.length) }
}

export async function isAuthorizedByAHandler(stage, { channel: name, channelData }) {
  const customHandler = ({ socketId, channelName }, callback) => {
    stage
      .backend('authorize', socketId, channelName, channelData)
      .then((answer) => callback(null, answer), callback)
  }
  const pusher = await stage.connected({ channelAuthorization: { customHandler } })
  const heard = hear(await joined(pusher, name), 'said')
  await stage.trigger(name, 'said', 'to the authorized')
  return heard.next()
}

export async function isNotAuthorized(stage) {
  const pusher = await stage.connected({ user: 'eve' })
  const refused = hear(pusher.subscribe('private-room'), 'pusher:subscription_error')
  const [, { type, status }] = await refused.next()
  const heard = hear(await joined(pusher, 'lobby'), 'said')
  await stage.trigger(['private-room', 'lobby'], 'said', 'hello')
  return { type, status, heard: await heard.next() }
}

export async function signsBadly(stage) {
  const customHandler = ({ socketId, channelName }, callback) =>
    stage
      .backend('authorize', socketId, `${channelName}-of-another-name`)
      .then((answer) => callback(null, answer), callback)
  const pusher = await stage.connected({ channelAuthorization: { customHandler } })
  const socketId = pusher.connection.socket_id
  const errors = hear(pusher.connection, 'error')
  const channel = pusher.subscribe('private-badly-signed')
  const [, error] = await errors.next()

  const heard = hear(await joined(pusher, 'usable'), 'said')
  await stage.trigger(['private-badly-signed', 'usable'], 'said', 'still here')
  return {
    socketId,
    error,
    subscribed: channel.subscribed,
    heard: await heard.next(),
    sameSocket: pusher.connection.socket_id === socketId,
  }
}

export async function leavesAndComesBack(stage) {
  const pusher = await stage.connected()
  const channel = await joined(pusher, 'left')
  const heard = hear(channel, 'said')
  await stage.trigger('left', 'said', 'before')
  const before = await heard.next()

  pusher.unsubscribe('left')
  const elsewhere = hear(await joined(pusher, 'elsewhere'), 'said')
  await stage.trigger(['left', 'elsewhere'], 'said', 'meanwhile')
  const meanwhile = await elsewhere.next()
  const missed = heard.rest()

  const again = hear(await joined(pusher, 'left'), 'said')
  await stage.trigger('left', 'said', 'after')
  return { before, meanwhile, missed, after: await again.next() }
}

// Every call in one breath: pusher-js, too, makes something of it before the server sees it.
export async function changesItsMind(stage) {
  const pusher = await stage.connected()
  const errors = hear(pusher.connection, 'error')
  pusher.subscribe('undecided')
  pusher.unsubscribe('undecided')
  const channel = pusher.subscribe('undecided')
  const first = hearAll(channel)
  const acknowledged = await first.next()
  pusher.unsubscribe('undecided')
  const second = hearAll(pusher.subscribe('undecided'))
  const acknowledgedAgain = await second.next()
  pusher.unsubscribe('undecided')
  const third = hearAll(pusher.subscribe('undecided'))
  pusher.unsubscribe('undecided')
  pusher.subscribe('undecided')
  const acknowledgedAtLast = await third.next()
  await stage.trigger('undecided', 'said', 'once')
  await stage.trigger('undecided', 'said', 'the end')
  const said = [await third.next(), await third.next()]
  await settled(pusher)
  return {
    acknowledged,
    acknowledgedAgain,
    acknowledgedAtLast,
    said,
    rest: third.rest(),
    errors: errors.rest(),
  }
}

export async function thinksBetterOfIt(stage) {
  const pusher = await stage.connected()
  const errors = hear(pusher.connection, 'error')
  const messages = hear(pusher.connection, 'message')
  pusher.subscribe('unwanted')
  pusher.unsubscribe('unwanted') // pusher-js waits for the server's yes, and leaves then
  await messages.next()
  const wanted = hear(await joined(pusher, 'wanted'), 'said')
  messages.rest()
  await stage.trigger(['unwanted', 'wanted'], 'said', 'hello')
  await wanted.next()
  return {
    frames: messages.rest().map(([, { event, channel }]) => [event, channel]),
    errors: errors.rest(),
    occupied: await stage.backend('sdk', 'main', 'get', { path: '/channels/unwanted' }),
  }
}

export async function isLeftOutByItsSocketId(stage) {
  const author = await stage.connected()
  const reader = await stage.connected()
  const own = hear(await joined(author, 'comments'), 'said')
  const others = hear(await joined(reader, 'comments'), 'said')
  const socket_id = author.connection.socket_id
  const answer = await stage.trigger('comments', 'said', 'to the others', { socket_id })
  await stage.trigger('comments', 'said', 'to all')
  return { answer, own: await own.next(), others: await others.take(2) }
}

export async function isSentABatch(stage) {
  const pusher = await stage.connected()
  const heard = new Inbox('the batch')
  for (const name of ['batch-one', 'private-batch-two']) {
    const channel = await joined(pusher, name)
    channel.bind('said', (data) => heard.put([name, data]))
  }
  const answer = await stage.backend('sdk', 'main', 'triggerBatch', [
    { channel: 'batch-one', name: 'said', data: { number: 1 } },
    { channel: 'private-batch-two', name: 'said', data: 'two' },
    { channel: 'batch-one', name: 'said', data: [3] },
  ])
  const all = await heard.take(3)
  const of = (channel) => all.filter(([name]) => name === channel).map(([, data]) => data)
  return { answer, one: of('batch-one'), two: of('private-batch-two') }
}

export async function countsSubscriptions(stage) {
  const first = await stage.connected({ app: 'counting' })
  const channel = first.subscribe('counted')
  const heard = hear(channel, 'pusher:subscription_count')
  const counts = [await heard.next()]
  const second = await stage.connected({ app: 'counting' })
  await joined(second, 'counted')
  counts.push(await heard.next())
  second.disconnect()
  counts.push(await heard.next())
  return { counts: counts.map(([, data]) => data), subscriptionCount: channel.subscriptionCount }
}

// -- Presence ------------------------------------------------------------------------------

export async function meetsInAPresenceChannel(stage) {
  const annsDesk = await stage.connected({ user: 'ann' })
  const annsPhone = await stage.connected({ user: 'ann' })
  const bobs = await stage.connected({ user: 'bob' })
  const changes = ['pusher:member_added', 'pusher:member_removed']

  const desk = await joined(annsDesk, 'presence-room')
  const atDesk = hear(desk, ...changes)
  const alone = membersOf(desk)
  const phone = await joined(annsPhone, 'presence-room')
  const atPhone = hear(phone, ...changes)
  const onHerPhone = membersOf(phone)
  const bob = await joined(bobs, 'presence-room')
  const atBobs = hear(bob, ...changes)
  const together = membersOf(bob)
  const bobCame = [await atDesk.next(), await atPhone.next()]
  const seenByAnn = membersOf(desk)

  annsPhone.unsubscribe('presence-room')
  await settled(annsPhone)
  annsDesk.disconnect() // the last that is open of her
  const annLeft = await atBobs.next()
  await settled(bobs)
  return {
    alone,
    onHerPhone,
    together,
    bobCame,
    seenByAnn,
    annLeft,
    remaining: membersOf(bob),
    rest: [...atDesk.rest(), ...atPhone.rest(), ...atBobs.rest()],
  }
}

export async function isPresentByANumber(stage) {
  const seven = await stage.connected({ user: '7' })
  const first = await joined(seven, 'presence-numbers')
  const heard = hear(first, 'pusher:member_added')
  const silent = await stage.connected({ user: 'silent' })
  const second = await joined(silent, 'presence-numbers')
  return { seven: membersOf(first).me, added: await heard.next(), silent: membersOf(second) }
}

// -- Cache channels ------------------------------------------------------------------------

export async function findsTheLastEvent(stage, { channel: name }) {
  const empty = await stage.connected({ user: 'ann' })
  const first = hearAll(empty.subscribe(name))
  const [[acknowledged], missed] = await first.take(2)
  await stage.trigger(name, 'price', 1)
  await stage.trigger(name, 'price', { now: 2 })
  await first.take(2)

  const late = await stage.connected({ user: 'ann' })
  const channel = late.subscribe(name)
  const second = hearAll(channel)
  const [[acknowledgedAgain], replayed] = await second.take(2)
  await stage.trigger(name, 'price', 3)
  const live = await second.next()
  return { acknowledged, missed, acknowledgedAgain, replayed, live, rest: second.rest() }
}

// -- Client events -------------------------------------------------------------------------

export async function tellsTheOthers(stage, { channel: name, data }) {
  const [author, reader] = [await stage.connected(), await stage.connected({ user: 'bob' })]
  const here = await joined(author, name)
  const there = await joined(reader, name)
  const own = hear(here, 'client-said', 'marker')
  const others = hear(there, 'client-said', 'marker')
  for (const one of data) here.trigger('client-said', one)
  const heard = await others.take(data.length)
  await stage.trigger(name, 'marker', 'the end')
  return { heard, own: await own.next(), end: await others.next() }
}

export async function tellsAPublicChannel(stage) {
  const [author, reader] = [await stage.connected(), await stage.connected()]
  const channel = await joined(author, 'public')
  const heard = hear(await joined(reader, 'public'), 'client-said', 'marker')
  const errors = hear(author.connection, 'error')
  channel.trigger('client-said', 'to everybody')
  const [, error] = await errors.next()
  await stage.trigger('public', 'marker', 'the end')
  return { error, heard: await heard.next() }
}

export async function saysTooMuch(stage, { burst }) {
  const [author, reader] = [await stage.connected(), await stage.connected()]
  const channel = await joined(author, 'private-busy')
  const heard = hear(await joined(reader, 'private-busy'), 'client-said', 'marker')
  const errors = hear(author.connection, 'error')
  for (let number = 1; number <= burst; number += 1) channel.trigger('client-said', number)
  const [, error] = await errors.next()
  await settled(author)
  await stage.trigger('private-busy', 'marker', 'the end')
  const told = []
  for (let item = await heard.next(); item[0] !== 'marker'; item = await heard.next()) {
    told.push(item[1])
  }
  const errorsInAll = 1 + errors.rest().length
  return { error, told, errorsInAll, state: author.connection.state }
}

// -- Users ---------------------------------------------------------------------------------

export async function signsIn(stage) {
  const pusher = await stage.connected({ user: 'bob' })
  const frames = hear(pusher.connection, 'message')
  const heard = hear(pusher.user, 'notice')
  pusher.signin()
  const [, success] = await frames.next()
  const [, subscribed] = await frames.next()
  const answer = await stage.backend('sdk', 'main', 'sendToUser', 'bob', 'notice', { for: 'bob' })
  const notice = await heard.next()

  const states = new Inbox('the end of the connection')
  pusher.connection.bind('state_change', ({ current }) => states.put(current))
  const ended = await stage.backend('sdk', 'main', 'terminateUserConnections', 'bob')
  return { success, subscribed, answer, notice: notice.slice(0, 2), ended, state: await states.next() }
}

// -- Connections ---------------------------------------------------------------------------

export async function hasAnUnknownKey(stage) {
  const pusher = stage.client({ key: 'no-such-key' })
  const states = []
  pusher.connection.bind('state_change', ({ current }) => states.push(current))
  const errors = hear(pusher.connection, 'error')
  const [, error] = await errors.next()
  if (pusher.connection.state !== 'disconnected') {
    await hear(pusher.connection, 'disconnected').next()
  }
  // With neither an attempt nor a timer for one, it will never try again.
  const { runner, retryTimer, connection } = pusher.connection
  return { error, states, willRetry: Boolean(runner || retryTimer?.isRunning() || connection) }
}

const RECONNECTING_MS = 40_000 // a refused attempt costs pusher-js 15 s before it makes the next

export async function survivesARestart(stage, { place }) {
  const pusher = await stage.connected({ user: 'bob' })
  const firstSocketId = pusher.connection.socket_id
  const channels = [`news-${place}`, `private-news-${place}`, `presence-news-${place}`]
  const heard = new Inbox('what is published after the restart')
  for (const name of channels) {
    const channel = await joined(pusher, name)
    channel.bind('said', (data) => heard.put([name, data]))
  }
  const errors = hear(pusher.connection, 'error')
  const again = channels.map((name) => hear(pusher.channel(name), 'pusher:subscription_succeeded'))
  stage.reached('subscribed')

  for (const acknowledged of again) await acknowledged.next(RECONNECTING_MS)
  await stage.trigger(channels, 'said', 'back again')
  const said = await heard.take(channels.length)
  return {
    errors: errors.rest().map(([, error]) => error.data ?? error.error?.data ?? null),
    newSocket: pusher.connection.socket_id !== firstSocketId,
    members: membersOf(pusher.channel(`presence-news-${place}`)),
    said: said.map(([, data]) => data),
    rest: heard.rest(),
  }
}

// -- laravel-echo --------------------------------------------------------------------------

const subscribed = (channel) => new Promise((resolve) => channel.subscribed(resolve))

export async function listensThroughEcho(stage, { broadcaster }) {
  const echo = stage.echo(broadcaster)
  const heard = new Inbox('events through Echo')
  const channel = echo
    .channel('orders')
    .listen('OrderShipped', (data) => heard.put(['OrderShipped', data]))
    .listen('Stock.RunOut', (data) => heard.put(['Stock.RunOut', data]))
    .listen('.order.paid', (data) => heard.put(['.order.paid', data]))
  const all = new Inbox('everything through Echo')
  channel.listenToAll((name, data) => all.put([name, data]))
  await subscribed(channel)
  await stage.trigger('orders', 'App\\Events\\OrderShipped', { order: { id: 1 } })
  await stage.trigger('orders', 'App\\Events\\Stock\\RunOut', { item: 'tea' })
  await stage.trigger('orders', 'order.paid', { order: { id: 2 } })
  return {
    heard: await heard.take(3),
    all: await all.take(3),
    status: echo.connectionStatus(),
  }
}

export async function whispersThroughEcho(stage, { broadcaster }) {
  const [ann, bob] = [stage.echo(broadcaster), stage.echo(broadcaster, { user: 'bob' })]
  const [own, others] = [new Inbox("Ann's"), new Inbox("Bob's")]
  const annsRoom = ann
    .private('chat.1')
    .listenForWhisper('typing', (data) => own.put(['whisper', data]))
    .listen('.message', (data) => own.put(['message', data]))
  const bobsRoom = bob
    .private('chat.1')
    .listenForWhisper('typing', (data) => others.put(['whisper', data]))
    .listen('.message', (data) => others.put(['message', data]))
  await Promise.all([subscribed(annsRoom), subscribed(bobsRoom)])
  annsRoom.whisper('typing', { name: 'Ann' })
  const whispered = await others.next()
  await stage.trigger('private-chat.1', 'message', { text: 'hello' })
  return { whispered, own: await own.next(), others: await others.next() }
}

export async function meetsThroughEcho(stage, { broadcaster }) {
  const [ann, bob] = [stage.echo(broadcaster), stage.echo(broadcaster, { user: 'bob' })]
  const seen = new Inbox('what Ann sees of the room')
  const bobSees = new Inbox('what Bob sees of the room')
  ann
    .join('room')
    .here((members) => seen.put(['here', members]))
    .joining((member) => seen.put(['joining', member]))
    .leaving((member) => seen.put(['leaving', member]))
    .listen('RoomOpened', (data) => seen.put(['RoomOpened', data]))
    .listenForWhisper('wave', (data) => seen.put(['whisper', data]))
  const here = await seen.next()
  const bobsRoom = bob.join('room').here((members) => bobSees.put(['here', members]))
  const bobsHere = await bobSees.next()
  const joining = await seen.next()
  bobsRoom.whisper('wave', { to: 'Ann' })
  const waved = await seen.next()
  await stage.trigger('presence-room', 'App\\Events\\RoomOpened', { by: 'the house' })
  const opened = await seen.next()
  bob.leave('room')
  const leaving = await seen.next()
  return { here, bobsHere, joining, waved, opened, leaving, rest: seen.rest() }
}

export async function leavesThroughEcho(stage, { broadcaster }) {
  const echo = stage.echo(broadcaster)
  const heard = new Inbox('events through Echo')
  const orders = echo.private('orders').listen('.paid', (data) => heard.put(['orders', data]))
  const stays = echo.channel('stays').listen('.paid', (data) => heard.put(['stays', data]))
  await Promise.all([subscribed(orders), subscribed(stays)])
  await stage.trigger('private-orders', 'paid', 1)
  const before = await heard.next()
  echo.leave('orders')
  await subscribed(echo.channel('a-marker'))
  await stage.trigger(['private-orders', 'stays'], 'paid', 2)
  return { before, after: await heard.next(), rest: heard.rest() }
}

export async function sendsToOthersThroughEcho(stage, { broadcaster }) {
  const [author, reader] = [stage.echo(broadcaster), stage.echo(broadcaster)]
  const [own, others] = [new Inbox('the author'), new Inbox('the reader')]
  await Promise.all([
    subscribed(author.channel('posts').listen('Posted', (data) => own.put(data))),
    subscribed(reader.channel('posts').listen('Posted', (data) => others.put(data))),
  ])
  const socket_id = author.socketId()
  await stage.trigger('posts', 'App\\Events\\Posted', 'to others', { socket_id })
  await stage.trigger('posts', 'App\\Events\\Posted', 'to all')
  return { own: await own.next(), others: await others.take(2) }
}

export async function isRefusedThroughEcho(stage, { broadcaster }) {
  const echo = stage.echo(broadcaster, { user: 'eve' })
  const errors = new Inbox('the refusal')
  echo.private('secrets').error((error) => errors.put(error))
  const { type, status } = await errors.next()
  return { type, status }
}

export async function decryptsThroughEcho(stage, { broadcaster }) {
  const echo = stage.echo(broadcaster)
  const heard = new Inbox('the secret')
  const channel = echo.encryptedPrivate('vault').listen('.opened', (data) => heard.put(data))
  await subscribed(channel)
  await stage.trigger('private-encrypted-vault', 'opened', { gold: 3 })
  return heard.next()
}

// -- Users ---------------------------------------------------------------------------------

async function signedIn(stage, user) {
  const pusher = await stage.connected({ user })
  pusher.signin()
  await pusher.user.signinDonePromise
  return pusher
}

export async function hearsAsAUser(stage) {
  const pusher = await signedIn(stage, 'ann')
  const tab = await signedIn(stage, 'ann')
  const heard = [hear(pusher.user, 'said'), hear(tab.user, 'said')]
  // The user's channel is subscribed by pusher-js itself, behind the sign-in.
  await Promise.all([settled(pusher), settled(tab)])
  const answer = await stage.backend('sdk', 'main', 'sendToUser', 'ann', 'said', { hello: 'Ann' })
  const occupied = await stage.backend('sdk', 'main', 'get', { path: '/channels' })
  return {
    user: pusher.user.user_data,
    answer,
    heard: await Promise.all(heard.map((inbox) => inbox.next())),
    occupied,
  }
}

export async function watchesOthers(stage) {
  const ann = await stage.connected({ user: 'ann' })
  const seen = hear(ann.user.watchlist, 'online', 'offline')
  ann.signin()
  const atFirst = [await seen.next()]
  const bob = await signedIn(stage, 'bob')
  const came = await seen.next()
  bob.disconnect()
  return { atFirst, came, went: await seen.next() }
}

export async function isPresentAsItsUser(stage) {
  const pusher = await signedIn(stage, 'ann')
  const customHandler = ({ socketId, channelName }, callback) =>
    stage
      .backend('authorize', socketId, channelName)
      .then((answer) => callback(null, answer), callback)
  pusher.config.channelAuthorizer = customHandler
  return membersOf(await joined(pusher, 'presence-of-users'))
}

export async function isTerminated(stage) {
  const pusher = await signedIn(stage, 'bob')
  const errors = hear(pusher.connection, 'error')
  const states = hear(pusher.connection, 'disconnected')
  const answer = await stage.backend('sdk', 'main', 'terminateUserConnections', 'bob')
  const [, error] = await errors.next()
  await states.next()
  return { answer, error, state: pusher.connection.state }
}

export async function failsToSignIn(stage) {
  const pusher = await stage.connected({ user: 'eve' })
  pusher.signin()
  const heard = hear(await joined(pusher, 'lobby'), 'said')
  await stage.trigger('lobby', 'said', 'still here')
  return { heard: await heard.next(), state: pusher.connection.state }
}
