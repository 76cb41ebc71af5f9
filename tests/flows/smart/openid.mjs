// openid-client, an OpenID-certified relying party: discovery, PKCE, nonce, iss, client authentication, refresh, introspection,
// revocation. What to do comes in SETUP; the person at the browser is the test, which is told the URL and answers where it led.
import * as openid from "openid-client";
import readline from "node:readline";

const setup = JSON.parse(process.env.SETUP);
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (what) => console.log(JSON.stringify(what));
// the error that the server answered with, as the client understood it
const refused = (promise) => promise.then(() => "nothing", (error) => error.error ?? error.code ?? String(error));

const proof = async () => {
  if (setup.secret) return openid.ClientSecretBasic(setup.secret);
  if (!setup.jwk) return openid.None();
  const curve = setup.jwk.kty === "EC";
  const algorithm = curve ? { name: "ECDSA", namedCurve: "P-384" } : { name: "RSASSA-PKCS1-v1_5", hash: "SHA-384" };
  const key = await crypto.subtle.importKey("jwk", setup.jwk, algorithm, false, ["sign"]);
  return openid.PrivateKeyJwt({ key, kid: setup.jwk.kid });
};
const config = await openid.discovery(new URL(setup.issuer), setup.client, undefined, await proof());

if (!setup.redirect_uri) {
  const system = openid.clientCredentialsGrant(config, { scope: setup.scope });
  tell(await system.catch((error) => ({ error: error.error ?? error.code })));
  process.exit(0);
}

const verifier = openid.randomPKCECodeVerifier();
const [state, nonce] = [openid.randomState(), openid.randomNonce()];
const url = openid.buildAuthorizationUrl(config, {
  redirect_uri: setup.redirect_uri,
  scope: setup.scope,
  aud: `${setup.issuer}/fhir`,
  code_challenge: await openid.calculatePKCECodeChallenge(verifier),
  code_challenge_method: "S256",
  state,
  nonce,
  ...setup.more,
});
tell({ url: url.href });
const back = new URL((await answers.next()).value);
const expected = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true };
if (setup.declines) {
  tell({ refused: await refused(openid.authorizationCodeGrant(config, back, expected)), iss: back.searchParams.get("iss") });
  process.exit(0);
}
const tokens = await openid.authorizationCodeGrant(config, back, expected);
const refreshed = await openid.refreshTokenGrant(config, tokens.refresh_token);
const active = await openid.tokenIntrospection(config, refreshed.access_token);
await openid.tokenRevocation(config, refreshed.refresh_token);
const ended = await openid.tokenIntrospection(config, refreshed.access_token);
const later = await refused(openid.refreshTokenGrant(config, refreshed.refresh_token));
const again = await refused(openid.authorizationCodeGrant(config, back, expected));
const system = await openid.clientCredentialsGrant(config, { scope: "system/Patient.rs" });
const iss = back.searchParams.get("iss");
tell({ claims: tokens.claims(), first: tokens, refreshed, active, ended, later, again, system, nonce, iss });
process.exit(0);
