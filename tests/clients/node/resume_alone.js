// The add-on with pusher-js and without a server: what it does with mistakes of the page.
//
//   node resume_alone.js
//
// Prints {"thrown", "refused", "accepted"}: what a channel of which a handler throws an exception
// has received, and the first positions that the add-on refuses and accepts.

import Pusher from 'pusher-js'

import HeliographResume from '../../../clients/heliograph-resume.js'

const client = () => new Pusher('key', { cluster: '', wsHost: 'localhost', wsPort: 9, forceTLS: false })

// Plays a message of the server. The exception of a handler ends its handling, as in a browser.
function receive(pusher, event) {
  try {
    pusher.connection.emit('message', { event, channel: 'news', data: {} })
  } catch (error) {
    if (error.message !== 'of the page') throw error
  }
}

async function withHandlerThatThrows() {
  const pusher = client()
  HeliographResume(pusher)
  const channel = pusher.subscribe('news')
  const received = []
  channel.bind_global((event) => received.push(event))
  channel.bind('pusher:subscription_succeeded', () => {
    throw new Error('of the page')
  })
  for (let times = 0; times < 2; times += 1) {
    receive(pusher, 'pusher_internal:subscription_succeeded')
    await null
  }
  await null
  pusher.disconnect()
  return received
}

function tryPositions(positions) {
  const refused = []
  const accepted = []
  for (const position of positions) {
    for (const use of [
      (pusher) => HeliographResume(pusher, { positions: { news: position } }),
      (pusher) => HeliographResume(pusher).start('news', position),
    ]) {
      const pusher = client()
      try {
        use(pusher)
        accepted.push(HeliographResume(pusher).position('news'))
      } catch (error) {
        refused.push(error.message)
      }
      pusher.disconnect()
    }
  }
  return { refused, accepted }
}

const WRONG = [
  'text',
  {},
  { epoch: 'a' },
  { epoch: 1, offset: 1 },
  { epoch: 'a', offset: '17' },
  { epoch: 'a', offset: -1 },
  { epoch: 'a', offset: 1.5 },
  { epoch: 'a', offset: NaN },
  { epoch: 'a', offset: Infinity },
]
const RIGHT = [null, undefined, { epoch: 'a', offset: 0 }, { epoch: 'a', offset: 17, more: 1 }]

const wrong = tryPositions(WRONG)
const right = tryPositions(RIGHT)
console.log(
  JSON.stringify({
    thrown: await withHandlerThatThrows(),
    refused: [wrong.refused, right.refused],
    accepted: [wrong.accepted, right.accepted],
  }),
)
process.exit()
