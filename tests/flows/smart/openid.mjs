// openid-client, an OpenID-certified relying party: discovery, PKCE, nonce, iss, private_key_jwt, refresh, introspection, revocation.
// What to do comes in SETUP; the person at the browser is the test, which is told the URL and answers with where it led back to.
import * as openid from "openid-client";
import readline from "node:readline";

const setup = JSON.parse(process.env.SETUP);
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (what) => console.log(JSON.stringify(what));

const key = await crypto.subtle.importKey("jwk", setup.jwk, { name: "RSASSA-PKCS1-v1_5", hash: "SHA-384" }, false, ["sign"]);
const config = await openid.discovery(new URL(setup.issuer), setup.client, undefined, openid.PrivateKeyJwt({ key, kid: setup.jwk.kid }));

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
});
tell({ url: url.href });
const back = new URL((await answers.next()).value);
const expected = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true };
const tokens = await openid.authorizationCodeGrant(config, back, expected);
const refreshed = await openid.refreshTokenGrant(config, tokens.refresh_token);
const active = await openid.tokenIntrospection(config, refreshed.access_token);
await openid.tokenRevocation(config, refreshed.refresh_token);
const ended = await openid.tokenIntrospection(config, refreshed.access_token);
const system = await openid.clientCredentialsGrant(config, { scope: "system/Patient.rs" });
tell({ claims: tokens.claims(), first: tokens, refreshed, active, ended, system });
process.exit(0);
