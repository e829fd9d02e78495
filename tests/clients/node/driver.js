// Plays scenarios for the tests: one JSON line in is an order, JSON lines out are what comes of it.
//
//   in   {"runtime", "host", "port", "wsHost", "wsPort", "apps", "chromium"}    first, once
//   in   {"scenario", "params", "build"} or {"call", "args"}     an order
//   out  {"reached": mark}                                       a scenario got so far
//   out  {"result": …} or {"error": text}                        the order's end
//
// One order at a time. The end of standard input is the end of everything.

import { createInterface } from 'node:readline'

import Echo from 'laravel-echo'
import { chromium } from 'playwright-core'
import Pusher from 'pusher-js'
import Pusher7 from 'pusher-js-7'

import { Backend } from './backend.js'
import HeliographResume from '../../../clients/heliograph-resume.js'
import { FLAGS } from './chromium.js'
import * as scenarios from './scenarios.js'
import { play, within } from './toolkit.js'

const LONGEST_MS = 60_000 // for any order

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)
const reached = (mark) => say({ reached: mark })
console.log = console.error // standard output is for what is above

// What fails where nobody waits for it fails the order that is under way.
let fail = (error) => {
  throw error
}
process.on('uncaughtException', (error) => fail(error))

class NodeRuntime {
  constructor(backend) {
    this.backend = backend
  }

  play({ scenario, params, build }, settings) {
    const backend = (...args) => this.backend.call(...args)
    const runtime = {
      Pusher: build.startsWith('pusher-7') ? Pusher7 : Pusher,
      Echo,
      HeliographResume,
      backend,
      reached,
    }
    return play(scenarios[scenario], runtime, settings, params)
  }

  stop() {}
}

// One browser with one tab. Every scenario has a document of its own, with nothing stored.
class BrowserRuntime {
  constructor(backend, browser) {
    this.backend = backend
    this.browser = browser
    this.page = null
  }

  static async start(backend, executablePath) {
    return new BrowserRuntime(backend, await chromium.launch({ executablePath, args: FLAGS }))
  }

  async open() {
    const page = await this.browser.newPage()
    page.on('pageerror', (error) => fail(error))
    page.on('console', (message) => console.error(`page: ${message.text()}`))
    await page.exposeFunction('backend', (...args) => this.backend.call(...args))
    await page.exposeFunction('reached', reached)
    return page
  }

  async play({ scenario, params, build }, settings) {
    this.page ??= await this.open()
    const { page } = this
    const addOn = `http://${settings.host}:${settings.port}/clients/heliograph-resume-1.js`
    await page.goto(`${settings.site}/page.html?${new URLSearchParams({ build, 'add-on': addOn })}`)
    await page.waitForFunction(() => window.ready)
    return page.evaluate((order) => window.ready(order), { scenario, settings, params })
  }

  stop() {
    return this.browser.close()
  }
}

async function obey(order, runtime, backend, settings) {
  const failed = new Promise((_, reject) => {
    fail = reject
  })
  const done = order.call ? backend.call(order.call, ...order.args) : runtime.play(order, settings)
  return within(Promise.race([done, failed]), () => order.scenario ?? order.call, LONGEST_MS)
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const settings = JSON.parse((await lines.next()).value)
const backend = new Backend(settings)
await backend.start()
settings.site = backend.site
const runtime =
  settings.runtime === 'chromium'
    ? await BrowserRuntime.start(backend, settings.chromium)
    : new NodeRuntime(backend)
say({ result: 'ready' })

for await (const line of lines) {
  try {
    const result = await obey(JSON.parse(line), runtime, backend, settings)
    say({ result: result ?? null })
  } catch (error) {
    say({ error: error?.stack ?? String(error) })
  }
}
await runtime.stop()
backend.stop()
process.exit(0) // clients whose scenario failed may still have timers
