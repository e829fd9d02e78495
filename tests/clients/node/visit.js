// Opens one page of an application in Chromium, presses its button and prints what the page shows.
//
//   in   {"chromium", "url", "cookies", "button"}    on standard input
//   out  {"heading", "refused"}                      on standard output
//
// The page loads pusher-js from Pusher's CDN; here that request is answered from node_modules.
// "refused" is the status of the error when the page subscribes to the channel of another user.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

import { chromium } from 'playwright-core'

const PUSHER_JS = createRequire(import.meta.url).resolve('pusher-js/dist/web/pusher.min.js')
const PATIENCE_MS = 20_000
const FLAGS = ['--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-sync']

const order = JSON.parse(readFileSync(0, 'utf8'))
const browser = await chromium.launch({ executablePath: order.chromium, args: FLAGS })
try {
  const context = await browser.newContext()
  context.setDefaultTimeout(PATIENCE_MS)
  await context.addCookies(order.cookies.map((cookie) => ({ ...cookie, url: order.url })))
  await context.route('https://js.pusher.com/**', (route) => route.fulfill({ path: PUSHER_JS }))
  const page = await context.newPage()
  page.on('console', (message) => console.error(`page: ${message.text()}`))
  page.on('pageerror', (error) => console.error(`page: ${error}`))
  await page.goto(order.url)
  await page.waitForFunction(() => {
    const channels = globalThis.Pusher?.instances[0]?.allChannels() ?? []
    return channels.length === 2 && channels.every((channel) => channel.subscribed)
  })
  const refused = await page.evaluate(
    () =>
      new Promise((resolve) => {
        const channel = Pusher.instances[0].subscribe('private-user-somebody-else')
        channel.bind('pusher:subscription_error', (error) => resolve(error.status))
        channel.bind('pusher:subscription_succeeded', () => resolve(null))
      }),
  )
  await page.click(order.button)
  await page.waitForFunction(() => document.querySelector('h1').textContent !== 'No order yet')
  const heading = await page.textContent('h1')
  console.log(JSON.stringify({ heading, refused }))
} finally {
  await browser.close()
}
