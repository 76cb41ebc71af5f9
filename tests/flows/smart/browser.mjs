// fhirclient.js in headless Chromium: a person launches an app from a report, an app launches itself, a person allows a part or
// nothing, an app posts its request, an app of nobody is kept out. SETUP.flow is one of the flows at the end.
import { createHmac } from "node:crypto";
import puppeteer from "puppeteer-core";

const setup = JSON.parse(process.env.SETUP);
const browser = await puppeteer.launch({
  executablePath: setup.chromium,
  args: ["--no-sandbox", "--ignore-certificate-errors", "--disable-gpu"],
});
const page = await browser.newPage();
page.setDefaultTimeout(20000);
await page.setViewport({ width: 1280, height: 900 });
const follow = (selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);

const signIn = async () => {
  await page.type("input[name=name]", setup.user);
  await page.type("input[name=password]", setup.password);
  await follow("form[action='/auth/login'] button");
};

const arrived = async () => {
  await page.waitForFunction("window.result !== undefined");
  return page.evaluate("window.result");
};

const standalone = async () => {
  await page.goto(`${setup.app}/launch.html?iss=${encodeURIComponent(setup.fhir)}`);
  await page.waitForSelector("input[name=password]");
  await signIn();
  while (await page.$("input[name=pick]")) {
    await page.click("input[name=chosen]");
    await follow("form[method=post] .buttons button");
  }
  await page.click("button[value=allow]");
  return arrived();
};

const launched = async () => {
  await page.goto(`${setup.base}/auth/launch?focus=${setup.focus}`);
  await page.select("select[name=intent]", "review");
  await page.click("button[value=browser-app]");
  await page.waitForSelector("button[value=allow]");
  await page.click("button[value=allow]");
  return arrived();
};

const ask = (url, options) => page.evaluate(
  (u, o) => fetch(u, o).then(
    async (answer) => ({ status: answer.status, etag: answer.headers.get("ETag"), type: (await answer.json()).resourceType }),
    (error) => String(error)),
  url, options);

const asks = async (token) => {
  const headers = { Authorization: `Bearer ${token}` };
  return {
    discovery: await page.evaluate(
      (url) => fetch(url).then((answer) => answer.status), `${setup.fhir}/.well-known/smart-configuration`),
    metadata: (await ask(`${setup.fhir}/metadata`)).status,
    fhir: await ask(`${setup.fhir}/Patient/${setup.patient}`, { headers }),
    unknown: await ask(`${setup.fhir}/Patient/nothing`, { headers: { ...headers, "If-None-Match": 'W/"1"' } }),
    token: await ask(`${setup.base}/auth/token`, { method: "POST", body: new URLSearchParams({ grant_type: "x" }) }),
    pages: await ask(`${setup.base}/auth/apps`, { credentials: "include" }),
  };
};

// The same token from the app's origin, and from one that no app registered: the browser keeps the answer from that.
const origins = async () => {
  const { told: { access_token: token } } = await standalone();
  const own = await asks(token);
  await page.goto(`${setup.elsewhere}/nothing.html`);
  return { own, elsewhere: await asks(token) };
};

// Of the first picker on: a person who unticks, chooses a part, or denies.
const asked = async (scope) => {
  await page.goto(`${setup.app}/launch.html?iss=${encodeURIComponent(setup.fhir)}&scope=${encodeURIComponent(scope)}`);
  await page.waitForSelector("input[name=password]");
  await signIn();
  await page.click("input[name=chosen]");
  await follow("form[method=post] .buttons button");
};

const narrowed = async () => {
  await asked("launch/patient openid patient/Patient.rs patient/DiagnosticReport.rs patient/Observation.rs");
  await page.click("input[value='patient/DiagnosticReport.rs']");
  await page.click("li:has(input[value='patient/Observation.rs']) summary");
  await page.click("input[value^='patient/Observation.rs?'][value$='laboratory']");
  await page.click("button[value=allow]");
  return arrived();
};

const denied = async () => {
  await asked("launch/patient openid patient/*.rs");
  await page.click("button[value=deny]");
  return arrived();
};

// A form of the app's own page, cross-site: the session's cookie does not come along, and the person is known nevertheless.
const posted = async () => {
  await page.goto(`${setup.base}/auth/login`);
  await signIn();
  await page.goto(`${setup.app}/nothing.html`);
  await Promise.all([page.waitForSelector("form[action='/auth/continue']"), page.evaluate((action, fields) => {
    const form = Object.assign(document.createElement("form"), { action, method: "post" });
    for (const [name, value] of Object.entries(fields))
      form.append(Object.assign(document.createElement("input"), { name, value }));
    document.body.append(form);
    form.submit();
  }, `${setup.base}/auth/authorize`, setup.asked)]);
  await page.click("input[name=chosen]");
  await follow("form[method=post] .buttons button");
  await follow("button[value=allow]");
  const told = new URL(page.url());
  return { at: told.origin + told.pathname, ...Object.fromEntries(told.searchParams) };
};

const totp = (secret) => {
  const bits = [...secret].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30000)));
  const digest = createHmac("sha1", key).update(counter).digest();
  return String((digest.readUInt32BE(digest[19] & 15) & 0x7fffffff) % 1000000).padStart(6, "0");
};

const untilTheCode = async () => {
  const scope = encodeURIComponent("launch/patient patient/*.rs");
  await page.goto(`${setup.app}/launch.html?iss=${encodeURIComponent(setup.fhir)}&scope=${scope}`);
  await page.waitForSelector("input[name=password]");
  await signIn();
};

const gives = async (code) => {
  await page.type("input[name=code]", code);
  await follow("form[action='/auth/code'] button");
};

const second = async () => {
  await untilTheCode();
  await gives("000000");
  const refused = await page.$eval("[role=alert]", (one) => one.textContent);
  await gives(totp(setup.totp));
  await page.click("input[name=chosen]");
  await follow("form[method=post] .buttons button");
  await page.click("button[value=allow]");
  const { patient, error } = await arrived();
  return { refused, patient, error };
};

const language = async () => {
  await untilTheCode();
  if (setup.wrong) await gives("000000");
  const [answer] = await follow("footer a");
  return {
    status: answer.status(),
    lang: await page.evaluate("document.documentElement.lang"),
    next: await page.evaluate("document.querySelector('input[name=next]')?.value"),
  };
};

const launches = async () => ({ standalone: await standalone(), launched: await launched() });

try {
  console.log(JSON.stringify(await { launches, origins, narrowed, denied, posted, second, language }[setup.flow]()));
} catch (error) {
  console.log(JSON.stringify({ error: String(error), at: page.url().split("?")[0], text: (await page.evaluate("document.body.innerText")).slice(0, 400) }));
} finally {
  await browser.close();
}
