// People in headless Chromium who open images: SETUP.steps are done one after the other, each in the same browser, and each tells
// what was seen. Screenshots go into SETUP.out.
import puppeteer from "puppeteer-core";

const setup = JSON.parse(process.env.SETUP);
const browser = await puppeteer.launch({
  executablePath: setup.chromium,
  args: ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
});
const page = await browser.newPage();
page.setDefaultTimeout(60000);
const seen = { urls: [], refused: [], violations: [] };
page.on("request", (request) => seen.urls.push(request.url()));
page.on("response", (answer) => { if (answer.status() >= 400) seen.refused.push([answer.status(), answer.url()]); });
page.on("console", (message) => {
  if (message.text().includes("Content Security Policy")) seen.violations.push(message.text());
});
const follow = (selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Where a canvas or an image is, when the same picture was there three times in a row and is not one colour: it has been drawn.
const drawn = async (selector) => {
  let before = "", times = 0;
  for (let tries = 0; tries < 150; tries += 1) {
    await pause(400);
    const found = await page.evaluate((name) => {
      const one = document.querySelector(name);
      if (!one || (one.tagName === "IMG" ? !one.complete || !one.naturalWidth : !one.width)) return null;
      const small = document.createElement("canvas");
      small.width = small.height = 32;
      const context = small.getContext("2d");
      context.drawImage(one, 0, 0, 32, 32);
      const data = Array.from(context.getImageData(0, 0, 32, 32).data);
      const { x, y, width, height } = one.getBoundingClientRect();
      return { box: { x, y, width, height }, data, levels: new Set(data.filter((_, n) => n % 4 !== 3)).size };
    }, selector);
    const now = found && found.levels > 8 ? JSON.stringify(found) : "";
    times = now && now === before ? times + 1 : 0;
    before = now;
    if (times === 2) return found.box;
  }
  return null;
};

const steps = {
  async "sign in"({ user, password }) {
    await page.type("input[name=name]", user);
    await page.type("input[name=password]", password);
    await follow("form[action='/auth/login'] button");
  },
  async open({ path }) { await page.goto(`${setup.base}${path}`, { waitUntil: "load" }); },
  async size({ width, height, mobile }) { await page.setViewport({ width, height, isMobile: !!mobile, hasTouch: !!mobile }); },
  async drawn({ selector, name }) {
    const box = await drawn(selector);
    await page.screenshot({ path: `${setup.out}/${name}.png` });
    const text = await page.evaluate("document.body.innerText.slice(0, 3000)");
    return { drawn: !!box, box, text, isolated: await page.evaluate("crossOriginIsolated") };
  },
  async shot({ name, full, wait }) {
    await pause(wait || 500);
    await page.screenshot({ path: `${setup.out}/${name}.png`, fullPage: !!full });
    return { text: await page.evaluate("document.body.innerText.slice(0, 3000)") };
  },
  async press({ key }) { await page.keyboard.press(key); await pause(500); },
  async click({ selector }) { await page.click(selector); await pause(500); },
  async evaluate({ script }) { return { value: await page.evaluate(script) }; },
};

const told = [];
try {
  for (const [name, given] of setup.steps) told.push({ step: name, at: page.url(), ...(await steps[name](given || {})), url: page.url() });
  const { cookies } = await (await page.createCDPSession()).send("Network.getAllCookies");
  console.log(JSON.stringify({ told, seen, cookies }));
} catch (error) {
  console.log(JSON.stringify({ error: String(error), told, seen }));
} finally {
  await browser.close();
}
