// Plays two people in the chat example, one of whom is offline for a while.
//
//   node chat_offline.js CHROMIUM ADDRESS-OF-THE-CHAT [FOLDER-FOR-PICTURES]
//
// Prints {"messages", "notices", "loads"}: what the page of the one that was offline shows, in order,
// and how often it asked the application for messages.

import { chromium } from 'playwright-core'

import { FLAGS } from './chromium.js'

const [executablePath, address, folder] = process.argv.slice(2)
const browser = await chromium.launch({ executablePath, args: FLAGS })

const sockets = new Set()
let online = true
let loads = 0

// A context each, as two people have a browser each.
async function join(name, { cut = false } = {}) {
  const context = await browser.newContext({ viewport: { width: 900, height: 600 } })
  context.setDefaultTimeout(20_000)
  const page = await context.newPage()
  page.on('console', (message) => console.error(`page: ${message.text()}`))
  page.on('pageerror', (error) => console.error(`page: ${error}`))
  if (cut) {
    page.on('request', (request) => {
      if (request.method() === 'GET' && request.url().endsWith('/messages')) loads += 1
    })
    await page.routeWebSocket(/\/app\//, (socket) => {
      if (!online) return socket.close({ code: 1001 })
      socket.connectToServer()
      return sockets.add(socket)
    })
  }
  await page.goto(address)
  await page.fill('#name', name)
  await page.click('#join button')
  await page.waitForFunction(() => document.querySelectorAll('#people li').length > 0)
  return page
}

async function send(text, ...readers) {
  await grace.fill('#text', text)
  await grace.click('#compose button')
  for (const page of [grace, ...readers]) await page.getByText(text, { exact: true }).waitFor()
}

const ada = await join('Ada', { cut: true })
const grace = await join('Grace')
await send('before', ada)

online = false
for (const socket of sockets) await socket.close({ code: 1001 })
await ada.waitForSelector('#connection:not([data-state="connected"])')
await send('one')
await send('two')

online = true
await ada.waitForSelector('#connection[data-state="connected"]')
await send('after', ada)

const shown = (selector) => ada.locator(selector).allTextContents()
console.log(
  JSON.stringify({ messages: await shown('.message .text'), notices: await shown('.notice'), loads }),
)
if (folder) {
  for (const width of [900, 400]) {
    await ada.setViewportSize({ width, height: 600 })
    await ada.screenshot({ path: `${folder}/chat-${width}.png` })
  }
}
await browser.close()
