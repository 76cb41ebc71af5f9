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

// The same picture twice in a row, and not one colour: the viewport has drawn.
const drawn = async (selector) => {
  let before = "";
  for (let tries = 0; tries < 120; tries += 1) {
    await pause(500);
    const element = await page.$(selector);
    if (!element) continue;
    const found = await page.evaluate((one) => {
      const canvas = one.tagName === "CANVAS" ? one : one.querySelector("canvas");
      if (!canvas || !canvas.width) return "";
      const small = document.createElement("canvas");
      small.width = small.height = 32;
      const context = small.getContext("2d");
      context.drawImage(canvas, 0, 0, 32, 32);
      const data = context.getImageData(0, 0, 32, 32).data;
      const levels = new Set(data.filter((_, n) => n % 4 !== 3));
      return levels.size > 8 ? Array.from(data).join() : "";
    }, element);
    if (found && found === before) return element;
    before = found;
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
  async drawn({ selector, name, clean }) {
    const element = await drawn(selector);
    if (clean) await page.addStyleTag({ content: clean }).catch(() => {});
    await pause(300);
    await page.screenshot({ path: `${setup.out}/${name}-page.png` });
    if (!element) return { drawn: false, text: await page.evaluate("document.body.innerText.slice(0, 2000)") };
    await element.screenshot({ path: `${setup.out}/${name}.png` });
    return { drawn: true, isolated: await page.evaluate("crossOriginIsolated") };
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
