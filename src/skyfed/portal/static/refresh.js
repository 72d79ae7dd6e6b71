// Replaces the page's content by a fresh one, keeping what the reader has opened. Without this script the page is whole,
// only not renewed by itself.
"use strict";

const EVERY_MS = 15000;

function opened(main) {
  return new Map([...main.querySelectorAll("details")].map((details) => [details.id, details.open]));
}

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
  const live = document.getElementById("live");
  if (!fresh || !live) return;
  for (const [id, open] of opened(live)) {
    const details = fresh.querySelector(`#${CSS.escape(id)}`);
    if (details) details.open = open;
  }
  live.replaceWith(fresh);
}

setInterval(() => refresh().catch(() => {}), EVERY_MS);
document.addEventListener("visibilitychange", () => refresh().catch(() => {}));
