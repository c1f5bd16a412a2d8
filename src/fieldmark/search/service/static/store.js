// Pictures that were dropped stay in this browser (IndexedDB), so that "back" and a reload find them again. The service
// keeps none of them.

const kept = new Map(); // what this tab has seen, and everything where IndexedDB is not to be had
const MOST = 40;

export async function keep(blob) {
  const key = await keyOf(blob);
  kept.set(key, blob);
  try {
    const store = await open("readwrite");
    store.put({ key, blob, at: Date.now() });
    const keys = await done(store.index("at").getAllKeys());
    for (const old of keys.slice(0, Math.max(0, keys.length - MOST))) store.delete(old);
  } catch {
    // a private window: this tab's memory has to do
  }
  return key;
}

export async function find(key) {
  if (kept.has(key)) return kept.get(key);
  try {
    const found = await done((await open("readonly")).get(key));
    if (found) kept.set(key, found.blob);
    return found ? found.blob : null;
  } catch {
    return null;
  }
}

function open(mode) {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open("fieldmark", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("pictures", { keyPath: "key" }).createIndex("at", "at");
    asked.onsuccess = () => resolve(asked.result.transaction("pictures", mode).objectStore("pictures"));
    asked.onerror = () => reject(asked.error);
  });
}

function done(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

// A name for a picture, by its content. Two 32-bit FNV-1a sums: crypto.subtle is missing on plain HTTP, and nothing
// depends on nobody finding a collision.
async function keyOf(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let one = 0x811c9dc5;
  let other = 0xcbf29ce4 ^ bytes.length;
  for (let i = 0; i < bytes.length; i++) {
    one = Math.imul(one ^ bytes[i], 0x01000193);
    other = Math.imul(other ^ bytes[bytes.length - 1 - i], 0x01000193);
  }
  return [one, other].map((sum) => (sum >>> 0).toString(16).padStart(8, "0")).join("");
}
