// Measures pages in Chromium: what is wider than the window.
//
//   node page_widths.js CHROMIUM WIDTH FOLDER [shots]
//
// Opens each .html of FOLDER in a window of WIDTH pixels and prints one line of JSON for all:
// {"name.html": [each element that is too wide, and up to which pixel it goes]}. With `shots`, it
// also takes a picture of each page, beside it.

import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'

import { chromium } from 'playwright-core'

import { FLAGS } from './chromium.js'

const [executablePath, width, folder, shots] = process.argv.slice(2)
const browser = await chromium.launch({ executablePath, args: FLAGS })
const page = await browser.newPage({ viewport: { width: Number(width), height: 900 } })

const tooWide = () => {
  const { scrollWidth, clientWidth } = document.documentElement
  const right = (one) => Math.ceil(one.getBoundingClientRect().right)
  const elements = [...document.querySelectorAll('body *:not(pre *, table *)')]
  const found = elements.filter((one) => right(one) > clientWidth)
  if (scrollWidth > clientWidth && found.length === 0) return [`the page: ${scrollWidth}`]
  return found.map((one) => `${one.tagName} to ${right(one)}: ${one.textContent.trim().slice(0, 80)}`)
}

const measured = {}
for (const file of readdirSync(folder).sort()) {
  if (!file.endsWith('.html')) continue
  await page.goto(pathToFileURL(join(folder, file)).href)
  measured[file] = await page.evaluate(tooWide)
  if (shots) {
    const picture = `${basename(file, '.html')}-${width}.png`
    await page.screenshot({ path: join(folder, picture), fullPage: true })
  }
}
console.log(JSON.stringify(measured))
await browser.close()
