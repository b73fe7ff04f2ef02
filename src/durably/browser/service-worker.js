/* Keeps a bundle of Durably, and the pages named in its address, for days without a network.
 *
 * At the root of the application, in a file of its own, say sw.js:
 *   self.DURABLY = { bundle: "/durably/", pages: ["/", "/jobs.py"] };
 *   importScripts("/durably/service-worker.js");
 * and on the page:
 *   navigator.serviceWorker.register("/sw.js", { updateViaCache: "none" });
 */
(() => {
  /* Written by `durably browser-bundle`: browsers look for a new release by the bytes of this script. */
  const MANIFEST = "SHA-256 of manifest.json";
  const { bundle = "/durably/", pages = [] } = self.DURABLY ?? {};
  const PREFIX = `durably ${self.registration.scope} `; // an origin may have several applications
  const CURRENT = PREFIX + MANIFEST;

  async function install() {
    const cache = await caches.open(CURRENT);
    await Promise.all(pages.map(async (page) => cache.put(page, await load(page, "no-cache"))));
    await keep(cache, `${bundle}manifest.json`, MANIFEST);
    const manifest = await (await cache.match(`${bundle}manifest.json`)).json();
    await Promise.all(
      Object.entries(manifest.files).map(([name, { sha256 }]) =>
        keep(cache, bundle + name, sha256),
      ),
    );
    /* A page that is loading Python gets all of it from one release. */
    await navigator.locks.request("durably:loading", () => self.skipWaiting());
  }

  /* What is had already is not fetched again. Files of two releases are not mixed. */
  async function keep(cache, url, sha256) {
    for (const find of [() => caches.match(url), () => load(url, "default"), () => load(url, "reload")]) {
      const found = await find();
      if (found && (await digest(found)) === sha256) return cache.put(url, found);
    }
    throw new Error(`${url} is of another release than ${MANIFEST}`);
  }

  /* A copy that answers every request of its address: neither `Vary` nor a redirect is kept. */
  async function load(url, mode) {
    const response = await fetch(url, { cache: mode });
    if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
    const headers = new Headers(response.headers);
    headers.delete("vary");
    return new Response(await response.arrayBuffer(), { headers });
  }

  async function digest(response) {
    const bytes = await response.clone().arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function activate() {
    for (const name of await caches.keys()) {
      if (name.startsWith(PREFIX) && name !== CURRENT) await caches.delete(name);
    }
    await self.clients.claim();
  }

  /* The bundle from the cache; pages from the network while there is one. */
  async function answer(request) {
    const cache = await caches.open(CURRENT);
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept && new URL(request.url).pathname.startsWith(bundle)) return kept;
    try {
      return await fetch(request);
    } catch (error) {
      if (kept) return kept;
      throw error;
    }
  }

  self.addEventListener("install", (event) => event.waitUntil(install()));
  self.addEventListener("activate", (event) => event.waitUntil(activate()));
  self.addEventListener("fetch", (event) => {
    const url = new URL(event.request.url);
    const isOurs =
      url.origin === self.location.origin &&
      (url.pathname.startsWith(bundle) || pages.includes(url.pathname));
    if (event.request.method === "GET" && isOurs) event.respondWith(answer(event.request));
  });
})();
