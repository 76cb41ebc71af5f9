// fhirclient.js in headless Chromium: a person launches an app from a report, an app launches itself, an app of nobody is kept out.
import puppeteer from "puppeteer-core";

const setup = JSON.parse(process.env.SETUP);
const browser = await puppeteer.launch({
  executablePath: setup.chromium,
  args: ["--no-sandbox", "--ignore-certificate-errors", "--disable-gpu"],
});
const page = await browser.newPage();
page.setDefaultTimeout(20000);
await page.setViewport(setup.viewport ?? { width: 1280, height: 900 });
let shots = 0;
const shot = async (name) => {
  if (setup.shots) await page.screenshot({ path: `${setup.shots}/${String(++shots).padStart(2, "0")}-${name}.png`, fullPage: true });
};
const follow = (selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);

const signIn = async () => {
  await shot("login");
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
    await shot("pick");
    await page.click("input[name=chosen]");
    await follow("form[method=post] .buttons button");
  }
  await shot("consent");
  await page.click("button[value=allow]");
  return arrived();
};

const launched = async () => {
  await page.goto(`${setup.base}/auth/launch?focus=${setup.focus}`);
  await shot("launch");
  await page.select("select[name=intent]", "review");
  await page.click("button[value=browser-app]");
  await page.waitForSelector("button[value=allow]");
  await shot("consent-of-a-launch");
  await page.click("button[value=allow]");
  return arrived();
};

// The same server from an origin that no app registered: the browser keeps the answer from it.
const fromElsewhere = async () => {
  await page.goto(`${setup.elsewhere}/nothing.html`);
  const ask = (url, options) => page.evaluate(
    (u, o) => fetch(u, o).then((answer) => answer.status, (error) => String(error)), url, options);
  return {
    discovery: await ask(`${setup.fhir}/.well-known/smart-configuration`),
    metadata: await ask(`${setup.fhir}/metadata`),
    fhir: await ask(`${setup.fhir}/Patient`, { headers: { Authorization: "Bearer x" } }),
    token: await ask(`${setup.base}/auth/token`, { method: "POST", body: new URLSearchParams({ grant_type: "x" }) }),
  };
};

const pages = async () => {
  for (const lang of ["en", "pl"]) {
    await page.goto(`${setup.base}/auth/apps?lang=${lang}`);
    await shot(`apps-${lang}`);
    await page.goto(`${setup.base}/auth/authorize?client_id=nobody`);
    await shot(`error-${lang}`);
  }
};

try {
  const result = { standalone: await standalone(), launched: await launched() };
  await pages();
  console.log(JSON.stringify({ ...result, elsewhere: await fromElsewhere() }));
} catch (error) {
  await shot("failed");
  console.log(JSON.stringify({ error: String(error), at: page.url().split("?")[0], text: (await page.evaluate("document.body.innerText")).slice(0, 400) }));
} finally {
  await browser.close();
}
