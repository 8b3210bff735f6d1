//! An operator, an account and a user of NATS, as `nsc` makes them: keys, and JWTs that prove who
//! issued them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The account of a test, and its only user.
pub(crate) struct Account {
    /// The lines of a server's configuration that accept the account.
    pub(crate) configuration: String,
    /// The content of the user's `.creds` file.
    pub(crate) credentials: String,
}

impl Account {
    /// Makes new keys and JWTs.
    pub(crate) fn new() -> Self {
        let operator = KeyPair::new_operator();
        let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
        let operator_jwt = jwt(&operator, &operator, &json!({"type": "operator"}));
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        });
        let account_jwt = jwt(
            &operator,
            &account,
            &json!({"type": "account", "limits": limits}),
        );
        // JetStream needs a system account.
        let system = KeyPair::new_account();
        let system_jwt = jwt(&operator, &system, &json!({"type": "account"}));
        let rights = json!({"type": "user", "subs": -1, "data": -1, "payload": -1});
        let user_jwt = jwt(&account, &user, &rights);
        let (key, system_key) = (account.public_key(), system.public_key());
        Self {
            configuration: format!(
                "operator: {operator_jwt}\nsystem_account: {system_key}\nresolver: MEMORY\n\
                 resolver_preload: {{ {key}: {account_jwt}, {system_key}: {system_jwt} }}"
            ),
            credentials: format!(
                "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
                user.seed().expect("the pair has a seed")
            ),
        }
    }
}

/// Returns the JWT about a key, signed by its issuer.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: &Value) -> String {
    let mut nats = claims.clone();
    nats["version"] = json!(2);
    let payload = json!({
        "jti": "test", "iat": 1_704_110_400, "iss": issuer.public_key(), "name": "test",
        "sub": subject.public_key(), "nats": nats,
    });
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = format!("{}.{}", encoded(&header), encoded(&payload));
    let signature = issuer.sign(signed.as_bytes()).expect("the pair has a seed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
