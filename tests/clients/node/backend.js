// The application that the clients belong to: its pages, its authorization endpoints, and its SDK.
// Everything it says to Heliograph, it says through the official server SDK.

import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { fileURLToPath } from 'node:url'

import PusherServer from 'pusher'

// Who is signed in to the application, by bearer token.
const USERS = {
  ann: { user_id: 'ann', user_info: { name: 'Ann' }, watchlist: ['bob', '7'] },
  bob: { user_id: 'bob', user_info: { name: 'Bob' } },
  eve: null, // she may see nothing
  7: { user_id: 7, user_info: { name: 'Seven' } },
  silent: { user_id: 'silent' },
}

const MASTER_KEY = Buffer.from('a master key that has 32 bytes..').toString('base64')

const TYPES = { js: 'text/javascript', html: 'text/html; charset=utf-8' }

// What pages may load: the distributed files, as a CDN has them, and the scenarios.
const FILES = {
  '/page.html': 'page.html',
  '/toolkit.js': 'toolkit.js',
  '/scenarios.js': 'scenarios.js',
  '/resume.js': 'resume.js',
  '/pusher.js': 'node_modules/pusher-js/dist/web/pusher.js',
  '/pusher-with-encryption.js': 'node_modules/pusher-js/dist/web/pusher-with-encryption.js',
  '/pusher-7.js': 'node_modules/pusher-js-7/dist/web/pusher.js',
  '/pusher-7-with-encryption.js': 'node_modules/pusher-js-7/dist/web/pusher-with-encryption.js',
  '/echo.iife.js': 'node_modules/laravel-echo/dist/echo.iife.js',
}

export class Backend {
  #sdks = new Map()
  #settings
  #server

  constructor(settings) {
    this.#settings = settings
    for (const [name, { id, key, secret }] of Object.entries(settings.apps)) {
      const { host, port } = settings
      const options = { host, port, appId: id, key, secret, encryptionMasterKeyBase64: MASTER_KEY }
      this.#sdks.set(name, new PusherServer(options))
    }
  }

  async start() {
    this.#server = createServer((request, response) => {
      this.#answer(request).then(
        ([status, type, body]) => response.writeHead(status, { 'Content-Type': type }).end(body),
        (error) => response.writeHead(500, { 'Content-Type': 'text/plain' }).end(error.stack),
      )
    })
    await new Promise((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    this.site = `http://127.0.0.1:${this.#server.address().port}`
  }

  stop() {
    this.#server.close()
    this.#server.closeAllConnections()
  }

  // What scenarios and tests may ask of it.
  call(name, ...args) {
    const calls = {
      sdk: (app, method, ...rest) => outcome(() => this.#sdks.get(app)[method](...rest)),
      url: (method, ...rest) => outcome(() => this.#fromUrl()[method](...rest)),
      webhook: (headers, rawBody) => this.#webhook({ headers, rawBody }),
      authorize: (socketId, channel, data) =>
        this.#sdks.get('main').authorizeChannel(socketId, channel, data),
    }
    return calls[name](...args)
  }

  #fromUrl() {
    const { host, port, apps } = this.#settings
    const { id, key, secret } = apps.main
    return PusherServer.forURL(`http://${key}:${secret}@${host}:${port}/apps/${id}`)
  }

  // What the SDK makes of a webhook: whether it is one, and what it says.
  #webhook(request) {
    const webhook = this.#sdks.get('main').webhook(request)
    return { valid: webhook.isValid(), events: webhook.getEvents(), time: webhook.getTime() }
  }

  async #answer(request) {
    const { pathname } = new URL(request.url, this.site)
    if (request.method === 'POST' && pathname.startsWith('/broadcasting/')) {
      return this.#authorize(pathname, request)
    }
    const file = FILES[pathname]
    if (file === undefined) return [404, 'text/plain', 'not here']
    const path = fileURLToPath(new URL(file, import.meta.url))
    return [200, TYPES[file.split('.').pop()], await readFile(path)]
  }

  async #authorize(pathname, request) {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    const asked = new URLSearchParams(Buffer.concat(chunks).toString())
    const user = USERS[(request.headers.authorization ?? '').replace('Bearer ', '')]
    if (!user) return [403, 'text/plain', 'Forbidden']
    const { user_id, ...profile } = user
    const member = { user_id, user_info: profile.user_info }
    const sdk = this.#sdks.get(asked.get('app') ?? 'main')
    const socketId = asked.get('socket_id')
    const channel = asked.get('channel_name')
    const answer = pathname.endsWith('/user-auth')
      ? sdk.authenticateUser(socketId, { id: String(user_id), ...profile })
      : sdk.authorizeChannel(socketId, channel, channel.startsWith('presence-') ? member : undefined)
    return [200, 'application/json', JSON.stringify(answer)]
  }
}

// What became of a request, as plain data: what the server said, or what the SDK made of it.
async function outcome(request) {
  try {
    const response = await request()
    return { status: response.status, body: await response.text() }
  } catch (error) {
    return { error: error.name, message: error.message, status: error.status, body: error.body }
  }
}
