// The service's answers; everything that is no answer is a ServiceError.

const TOKEN = "fieldmark-token";

export class ServiceError extends Error {
  // picture, where: numbers of the request's picture or condition that is meant, from 0, or null.
  constructor(code, message, { retryAfter = 0, picture = null, where = null } = {}) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
    this.picture = picture;
    this.where = where;
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("no_answer", "The service does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  let said = {};
  try {
    said = (await answer.json()).error || {};
  } catch {
    // a proxy's page, or uvicorn's own refusal
  }
  const message = said.message || `The service answered with status ${answer.status}.`;
  const code = answer.status === 503 ? "overloaded" : said.code || "refused"; // a proxy says 503, too
  throw new ServiceError(code, message, { retryAfter: Number(answer.headers.get("Retry-After")) || 0, picture: said.picture ?? null, where: said.where ?? null });
}

export async function get(path) {
  return (await ask(path)).json();
}

// pictures: blobs, in the order in which the query counts them.
export async function post(path, query, pictures, signal) {
  let body = JSON.stringify(query);
  const options = { method: "POST", signal, headers: { "Content-Type": "application/json" } };
  if (pictures.length) {
    const form = new FormData();
    form.append("query", body);
    for (const picture of pictures) form.append("image", picture, "picture");
    body = form;
    options.headers = {}; // the browser says where the parts end
  }
  return (await ask(path, { ...options, body })).json();
}

// An <img> cannot send a token: with one, pictures are fetched.
export async function show(image, path) {
  if (!sessionStorage.getItem(TOKEN)) {
    image.addEventListener("error", () => image.removeAttribute("src"), { once: true });
    image.src = path;
    return;
  }
  try {
    showBlob(image, await (await ask(path)).blob());
  } catch {
    image.classList.add("missing");
  }
}

export function showBlob(image, blob) {
  const address = URL.createObjectURL(blob);
  const free = () => URL.revokeObjectURL(address);
  image.addEventListener("load", free, { once: true });
  image.addEventListener("error", () => (free(), image.removeAttribute("src")), { once: true }); // no sign of a broken page
  image.src = address;
}
