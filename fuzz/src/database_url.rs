//! Invariants of any database URL, and of any password in one.

use std::fmt::Write as _;

use cloudflare_images_webhook::config::{Environment, load};

/// A part of the password. Its exclamation mark keeps it from being the name of a parameter or a host, which messages repeat.
const SECRET: &str = "TOP!SECRET";

const SERVER: &str = "postgres://db.example:6432";

/// Checks the input as a URL, and as a password that is percent-encoded or not.
///
/// A password never changes the server, and never appears in a message. An encoded one is always valid.
///
/// Returns whether the input is a valid URL.
pub fn check(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let is_valid = server(&text).is_ok();

    let password = format!("{text}{SECRET}{text}");
    if let Ok(server) = server(&url(&password)) {
        assert_eq!(server, SERVER, "{password:?}");
    }
    let mut encoded = String::new();
    for byte in password.bytes() {
        write!(encoded, "%{byte:02X}").expect("a string takes every text");
    }
    if !password.contains('\0') {
        assert_eq!(
            server(&url(&encoded)).as_deref(),
            Ok(SERVER),
            "{password:?}"
        );
    }
    is_valid
}

fn url(password: &str) -> String {
    format!("postgres://app:{password}@db.example:6432/app?sslmode=verify-full")
}

/// Returns the server as the log shows it, or the error. Checks that neither contains the secret.
fn server(url: &str) -> Result<String, String> {
    let environment: Environment = [("DATABASE_URL", url)].into_iter().collect();
    let loaded = load(&environment, None).map_err(|error| error.to_string());
    let shown = match &loaded {
        Ok(loaded) => {
            let settings = loaded.effective_settings().iter();
            settings.map(|setting| setting.value.as_str()).collect()
        }
        Err(message) => {
            assert!(!message.is_empty());
            message.clone()
        }
    };
    assert!(!shown.contains(SECRET), "{shown}");
    loaded.map(|loaded| format!("{:?}", loaded.settings.database.url))
}
