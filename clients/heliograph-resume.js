/* heliograph-resume 1: missed events for pusher-js 7 and 8. See README.md. MIT License. */
(function (root, make) {
  if (typeof module === 'object' && module.exports) module.exports = make()
  else root.HeliographResume = make()
})(typeof self === 'undefined' ? this : self, function () {
  'use strict'

  const FORMER_SOCKETS = 16
  const INTERNAL = 'pusher_internal:'

  function positionIn(data) {
    const valid = data && typeof data.epoch === 'string' && Number.isSafeInteger(data.offset)
    return valid && data.offset >= 0 ? { epoch: data.epoch, offset: data.offset } : null
  }

  // The server refuses an invalid position, and without one, missed events would go unnoticed.
  function checked(position, name) {
    const found = positionIn(position)
    if (position && !found) throw new TypeError('HeliographResume: invalid position of ' + name)
    return found
  }

  return function HeliographResume(pusher, options) {
    const send = pusher.send_event
    if (send.resume) return send.resume
    const connection = pusher.connection
    const first = Object.create(null)
    const given = (options && options.positions) || {}
    Object.keys(given).forEach(function (name) {
      first[name] = checked(given[name], name)
    })
    const states = new WeakMap() // by channel object: pusher-js makes a new one after unsubscribe
    let sockets = []
    let next = null // the position of the event that follows, and its channel's state

    function stateOf(channel) {
      if (channel && !states.has(channel)) states.set(channel, { position: null, recovered: 0 })
      return states.get(channel)
    }

    // Called before pusher-js handles the message: a page's handler finds the event's position.
    function receive(message, channel, state) {
      const data = message.data
      const announced = next
      next = null
      if (message.event === INTERNAL + 'subscription_succeeded') {
        state.open = true
        state.missed = state.before && !state.asked
        state.before = true
        // In case that a handler of the page throws an exception.
        if (state.missed) Promise.resolve(message).then(handled)
      } else if (!state.open) {
        // A message for an earlier subscription.
      } else if (message.event === INTERNAL + 'next_position') {
        next = { state, position: positionIn(data) }
      } else if (message.event === INTERNAL + 'position') {
        const recovered = state.recovered
        state.position = positionIn(data)
        if (ended(state)) channel.emit('heliograph:resumed', { recovered })
      } else if (message.event === INTERNAL + 'gap') {
        ended(state)
        state.position = positionIn(data)
        channel.emit('heliograph:gap', data)
      } else if (String(message.event).indexOf(INTERNAL) === 0) {
        // Nothing that has a position.
      } else if (announced && announced.state === state && announced.position) {
        state.position = announced.position
        if (state.asked) state.recovered++
      }
    }

    // Ends a continuation, and returns whether there was one.
    function ended(state) {
      const asked = state.asked
      state.asked = false
      state.recovered = 0
      return asked
    }

    connection.bind_global(function (name, data) {
      if (name === 'state_change' && data.current === 'connected') {
        sockets = sockets.concat(connection.socket_id).slice(-1 - FORMER_SOCKETS)
      } else if (name === 'message') {
        const channel = pusher.channel(data.channel)
        if (channel) receive(data, channel, stateOf(channel))
        else next = null
      }
    })

    // Called after pusher-js has handled the message.
    function handled(message) {
      const channel = pusher.channel(message.channel)
      const state = channel && stateOf(channel)
      if (!state || !state.missed) return
      state.missed = false
      channel.emit('heliograph:gap', { reason: 'no_history' })
    }

    connection.bind('message', handled)

    pusher.send_event = function (event, data, name) {
      const channel = event === 'pusher:subscribe' && pusher.channel(data.channel)
      if (channel) {
        const state = stateOf(channel)
        if (!state.before && first[data.channel]) state.position = first[data.channel]
        delete first[data.channel]
        state.asked = !!state.position
        state.open = false
        const history = Object.assign({}, state.position)
        if (sockets.length > 1) history.except = sockets.slice(0, -1)
        data = Object.assign({}, data, { history })
      }
      return send.call(pusher, event, data, name)
    }

    if (connection.state === 'connected') sockets.push(connection.socket_id)
    pusher.allChannels().forEach(function (channel) {
      stateOf(channel).before = channel.subscribed
    })

    return (pusher.send_event.resume = {
      position(name) {
        const state = states.get(pusher.channel(name))
        return positionIn((state && state.position) || first[name])
      },
      start(name, position) {
        first[name] = checked(position, name)
      },
    })
  }
})
