// Makes the picture of the chat example: two browsers side by side, one of them typing.
//
//   node chat_picture.js CHROMIUM ADDRESS-OF-THE-CHAT FILE.png
//
// `python -m tests.docs.chat_picture` starts the server and the chat, and calls this.

import { chromium } from 'playwright-core'

import { FLAGS } from './chromium.js'

const WINDOW = { width: 660, height: 500 } // just wide enough for the list of members
const PICTURE_WIDTH = 1200

const [executablePath, address, file] = process.argv.slice(2)
const browser = await chromium.launch({ executablePath, args: FLAGS })

async function join(name) {
  // A context each, as two people have a browser each.
  const context = await browser.newContext({ viewport: WINDOW, locale: 'en-GB' })
  const page = await context.newPage()
  await page.goto(address)
  await page.fill('#name', name)
  await page.click('#join button')
  await page.waitForSelector('#connection[data-state="connected"]')
  return page
}

async function send(sender, readers, text) {
  await sender.fill('#text', text)
  await sender.click('#compose button')
  for (const page of readers) await page.getByText(text).waitFor()
}

const ada = await join('Ada')
await ada.waitForFunction(() => document.querySelectorAll('#people li').length === 1)
const grace = await join('Grace')
const both = [ada, grace]
for (const page of both) {
  await page.waitForFunction(() => document.querySelectorAll('#people li').length === 2)
}

await send(ada, both, 'Morning! Is the new release out?')
await send(grace, both, 'Yes, five minutes ago. Nobody was disconnected.')
await send(ada, both, 'Then I will tell the team.')
await grace.locator('#text').pressSequentially('Wait, one more thing')
await ada.getByText('Grace is typing').waitFor()

const shots = []
for (const page of both) {
  const png = await page.screenshot()
  shots.push(`<img src="data:image/png;base64,${png.toString('base64')}">`)
}
const sheet = await browser.newPage({ viewport: { width: PICTURE_WIDTH, height: 600 } })
await sheet.setContent(
  `<!doctype html><style>
    body { margin: 0; padding: 16px; display: flex; gap: 16px; align-items: start }
    img {
      width: calc(50% - 8px);
      box-sizing: border-box;
      border: 1px solid #c4cbc2;
      border-radius: 8px;
    }
  </style>${shots.join('')}`,
)
await sheet.locator('body').screenshot({ path: file })
await browser.close()
