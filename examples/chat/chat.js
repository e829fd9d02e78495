// The page's side of the chat: pusher-js as anybody would use it.

const element = (id) => document.getElementById(id);

const TYPING_SENT_EVERY_MS = 2000;
const TYPING_SHOWN_FOR_MS = 3000;

// Each window is somebody else, and remains so when it is reloaded.
let token = sessionStorage.getItem('token');

async function request(path, body) {
  const options = body && {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

// -- Joining ------------------------------------------------------------------------------

function askForName(problem = '') {
  sessionStorage.removeItem('token');
  element('room').hidden = true;
  element('join').hidden = false;
  element('join-problem').textContent = problem;
  element('name').focus();
}

element('join').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    ({ token } = await request('/join', { name: element('name').value }));
    sessionStorage.setItem('token', token);
    await enter();
  } catch (error) {
    askForName(error.message);
  }
});

// -- The room -----------------------------------------------------------------------------

let channel; // the room as we are subscribed to it

async function enter() {
  if (!window.Pusher) throw new Error('pusher-js could not be loaded: start with --pusher_js.');
  if (!window.HeliographResume) throw new Error('Heliograph cannot be reached. Reload the page.');
  const settings = await request('/settings');
  const pusher = new Pusher(settings.key, {
    cluster: '',
    wsHost: settings.host,
    wsPort: settings.port,
    forceTLS: false,
    enabledTransports: ['ws', 'wss'],
    channelAuthorization: { endpoint: '/auth', headers: { Authorization: `Bearer ${token}` } },
  });
  HeliographResume(pusher);
  channel = pusher.subscribe(settings.channel);

  element('join').hidden = true;
  element('room').hidden = false;
  element('text').focus();

  showConnection(pusher.connection.state);
  pusher.connection.bind('state_change', ({ current }) => showConnection(current));

  let loaded = false;
  async function load() {
    (await request('/messages')).forEach((message) => showMessage(message, channel.members.myID));
    loaded = true;
  }
  channel.bind('pusher:subscription_succeeded', (members) => {
    showPeople(members);
    if (!loaded) load();
  });
  // After a reconnection, the missed messages arrive as all others do, before this event ...
  channel.bind('heliograph:resumed', ({ recovered }) => {
    if (recovered) showNotice(`Back online. Messages received meanwhile: ${recovered}`);
  });
  // ... or Heliograph no longer has them, and the application is asked.
  channel.bind('heliograph:gap', load);
  channel.bind('pusher:subscription_error', () => {
    pusher.disconnect();
    askForName('The chat was started anew. Please join again.');
  });
  channel.bind('pusher:member_added', ({ info }) => {
    showPeople(channel.members);
    showNotice(`${info.name} joined`);
  });
  channel.bind('pusher:member_removed', ({ id, info }) => {
    showPeople(channel.members);
    notTyping(id);
    showNotice(`${info.name} left`);
  });
  channel.bind('message', (message) => {
    notTyping(message.user_id);
    showMessage(message, channel.members.myID);
  });
  // The server says who sent it, so nobody can type in another's name.
  channel.bind('client-typing', (_data, { user_id }) => {
    const member = channel.members.get(user_id);
    if (member) showTyping(user_id, member.info.name);
  });
}

let typingTold = 0;

element('text').addEventListener('input', () => {
  if (Date.now() - typingTold < TYPING_SENT_EVERY_MS || !channel.subscribed) return;
  typingTold = Date.now();
  channel.trigger('client-typing', {});
});

element('compose').addEventListener('submit', async (event) => {
  event.preventDefault();
  const text = element('text').value;
  if (!text.trim()) return;
  element('text').value = '';
  typingTold = 0;
  try {
    await request('/messages', { text });
    element('problem').textContent = '';
  } catch (error) {
    element('text').value ||= text;
    element('problem').textContent = error.message;
  }
});

// -- What is shown ------------------------------------------------------------------------

function create(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children); // strings become text, never markup
  return made;
}

function face(id, name) {
  const made = create('span', 'face', [...name][0].toUpperCase());
  made.style.setProperty('--hue', parseInt(id.slice(0, 6), 16) % 360);
  made.setAttribute('aria-hidden', 'true');
  return made;
}

function showConnection(state) {
  element('connection').dataset.state = state;
  element('connection').textContent = state;
}

function showPeople(members) {
  const people = [];
  members.each(({ id, info }) => {
    const name = id === members.myID ? `${info.name} (you)` : info.name;
    people.push(create('li', '', face(id, info.name), create('span', 'name', name)));
  });
  element('people').replaceChildren(...people);
  element('count').textContent = `(${members.count})`;
}

const shown = new Set();

function showMessage({ id, user_id, name, text, at }, myID) {
  if (shown.has(id)) return;
  shown.add(id);
  const time = create('time', '', new Date(at).toLocaleTimeString([], { timeStyle: 'short' }));
  time.dateTime = new Date(at).toISOString();
  const by = create('div', 'by', create('span', 'name', name), time);
  const said = create('div', 'said', by, create('div', 'text', text));
  append(create('li', user_id === myID ? 'message mine' : 'message', face(user_id, name), said));
}

function showNotice(text) {
  append(create('li', 'notice', text));
}

function append(item) {
  const list = element('messages');
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  list.append(item);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

const typing = new Map(); // user id -> name, and what forgets it

function showTyping(id, name) {
  clearTimeout(typing.get(id)?.timer);
  typing.set(id, { name, timer: setTimeout(notTyping, TYPING_SHOWN_FOR_MS, id) });
  sayWhoIsTyping();
}

function notTyping(id) {
  clearTimeout(typing.get(id)?.timer);
  typing.delete(id);
  sayWhoIsTyping();
}

function sayWhoIsTyping() {
  const names = [...typing.values()].map(({ name }) => name);
  const who = new Intl.ListFormat('en').format(names.slice(0, 3));
  const more = names.length > 3 ? ' and others' : '';
  const verb = names.length === 1 ? 'is' : 'are';
  element('typing').textContent = names.length ? `${who}${more} ${verb} typing` : '';
}

if (token) enter().catch((error) => askForName(error.message));
else askForName();
