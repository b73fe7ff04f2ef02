/* Keeps a bundle of Durably, and the pages named in its address, for days without a network.
 *
 * At the root of the application, in a file of its own, say sw.js:
 *   self.DURABLY = { bundle: "/durably/", pages: ["/", "/jobs.py"] };
 *   importScripts("/durably/service-worker.js");
 */
(() => {
  const { bundle = "/durably/", pages = [] } = self.DURABLY ?? {};
  const PREFIX = "durably-";

  async function install() {
    const response = await fetch(`${bundle}manifest.json`, { cache: "no-cache" });
    const text = await response.text();
    const manifest = JSON.parse(text);
    const cache = await caches.open(PREFIX + (await digest(text)));
    await cache.addAll(pages.map((page) => new Request(page, { cache: "no-cache" })));
    await cache.put(`${bundle}manifest.json`, new Response(text));
    await Promise.all(
      Object.entries(manifest.files).map(([name, { sha256 }]) => add(cache, bundle + name, sha256)),
    );
    await self.skipWaiting();
  }

  /* What an old cache has is not fetched again. */
  async function add(cache, url, sha256) {
    const known = await caches.match(url);
    if (known && (await digest(await known.clone().arrayBuffer())) === sha256) {
      return cache.put(url, known);
    }
    return cache.add(new Request(url, { cache: "no-cache" }));
  }

  async function digest(data) {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function activate() {
    const names = (await caches.keys()).filter((name) => name.startsWith(PREFIX));
    for (const old of names.slice(0, -1)) await caches.delete(old);
    await self.clients.claim();
  }

  /* The bundle from the cache; pages from the network while there is one. */
  async function answer(request) {
    const isBundled = new URL(request.url).pathname.startsWith(bundle);
    const kept = await caches.match(request, { ignoreSearch: true });
    if (isBundled && kept) return kept;
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
