// Keeps the page as it is now. Without this script a reload does.
"use strict";

const live = document.getElementById("live");
const stale = document.getElementById("stale");
const pause = document.getElementById("pause");
// What is older says nothing about now, in milliseconds.
const STALE_AFTER = 10000;
const TRY_AGAIN_AFTER = 15000;

let source = null;
let paused = false;
let heard = Date.now();
let again = 0;

// Takes over the attributes of a new element. What is folded stays as the reader has left it.
function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morph(old, fresh);
}

// Makes the children of an element those of another one, and keeps what is the same: focus and selection stay.
function morph(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) {
    if (child.dataset.key) keyed.set(child.dataset.key, child);
  }
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = next.dataset && next.dataset.key;
    const isLike = at && at.nodeName === next.nodeName && !(at.dataset && at.dataset.key);
    const match = key ? keyed.get(key) : isLike ? at : null;
    keyed.delete(key);
    if (!match) {
      old.insertBefore(next, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    patch(match, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function fill(element, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  morph(element, template.content);
}

function say(words) {
  if (live.textContent !== words) live.textContent = words;
}

function show(event) {
  heard = Date.now();
  stale.hidden = true;
  document.body.classList.remove("stale");
  say("Live.");
  const { title, parts } = JSON.parse(event.data);
  fill(document.querySelector("title"), title);
  for (const [id, html] of Object.entries(parts)) {
    const part = document.querySelector(`[data-part="${id}"]`);
    if (part) fill(part, html);
  }
}

function stop() {
  clearTimeout(again);
  if (source) source.close();
  source = null;
}

function start() {
  stop();
  if (paused || document.hidden) return;
  heard = Date.now();
  source = new EventSource("page/updates");
  source.onmessage = show;
  source.onerror = () => {
    // The browser tries again by itself unless it was refused.
    if (source && source.readyState === EventSource.CLOSED) {
      say("No live updates: too many viewers, or no proxy. Trying again.");
      again = setTimeout(start, TRY_AGAIN_AFTER);
    }
  };
}

function look() {
  if (paused || document.hidden || Date.now() - heard < STALE_AFTER) return;
  const at = document.querySelector('[data-part="at"]').textContent;
  const words = `No news from the proxy. What you see is its state of ${at} UTC.`;
  if (stale.hidden || stale.textContent !== words) {
    stale.textContent = words;
    stale.hidden = false;
  }
  document.body.classList.add("stale");
}

pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Resume updates" : "Pause updates";
  if (paused) {
    stop();
    say("Paused.");
  } else {
    start();
  }
});

// A page that nobody sees costs the proxy nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));

const ask = document.getElementById("ask");
ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = document.getElementById("answer");
  const question = new URLSearchParams(new FormData(ask)).toString();
  answer.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(`page/why?${question}`);
    fill(answer, await response.text());
    history.replaceState(null, "", `?${question}#why`);
  } catch {
    answer.textContent = "The proxy did not answer.";
  }
  answer.removeAttribute("aria-busy");
  answer.focus();
});

setInterval(look, 1000);
start();
