//! The guide "Upload from the browser": its server, its page and its commands, with a service and Cloudflare.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::programs::Program;
use crate::pages::blocks;
use crate::support::app::{client, response_to};
use crate::support::cloudflare::Cloudflare;
use crate::support::ports::free_port;
use crate::support::program::Service;
use crate::support::signing::SECRET;
use crate::support::wait;

const PAGE: &str = "docs/src/guides/upload-from-the-browser.md";

/// Cloudflare, a service, and the server of the guide.
struct Setup {
    cloudflare: Cloudflare,
    service: Service,
    server: Child,
    port: u16,
    program: Program,
    _folder: TempDir,
}

impl Setup {
    async fn start() -> Self {
        let (folder, port) = (TempDir::new().expect("a folder"), free_port());
        let cloudflare = Cloudflare::start().await;
        let tokens = tokens_of_page();
        let token = tokens.rsplit(':').next().expect("a token");
        let mut variables = vec![
            ("APP__API__TOKENS", tokens.clone()),
            ("CLOUDFLARE_WEBHOOK_SECRET", SECRET.to_owned()),
        ];
        variables.extend(cloudflare.variables());
        let variables: Vec<(&str, &str)> = variables
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let service = Service::start(folder.path(), &variables);
        let program = Program::of_page(PAGE, "upload-python");
        let server = program
            .command()
            .env("PORT", port.to_string())
            .env("API_TOKEN", token)
            .env("SERVICE_URL", format!("http://127.0.0.1:{}", service.port))
            .env("DATABASE_FILE", folder.path().join("data/images.db"))
            .stderr(Stdio::null())
            .spawn()
            .expect("Python runs");
        wait::until("the server listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            cloudflare,
            service,
            server,
            port,
            program,
            _folder: folder,
        }
    }

    /// Returns the id of the image whose file has arrived at Cloudflare.
    async fn wait_for_upload(&self) -> String {
        wait::until_async("the file has arrived", async || {
            let ids = self.cloudflare.image_ids();
            let image = ids.first().and_then(|id| self.cloudflare.image(id));
            image.is_some_and(|image| !image.is_draft)
        })
        .await;
        self.cloudflare.image_ids().remove(0)
    }

    /// Sends the webhook about an image.
    async fn report(&self, id: &str) {
        let body = json!({"id": id, "uploaded": "2026-01-15T10:30:45Z"});
        let request = client().post(self.service.url());
        let request = request.header("cf-webhook-auth", SECRET);
        let answer = response_to(request.body(body.to_string())).await;
        assert_eq!(answer.outcome(), (200, "applied"));
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}

/// Returns the variable that the first commands of the page set.
fn tokens_of_page() -> String {
    let blocks = blocks(PAGE);
    let commands = blocks
        .iter()
        .find(|block| block.language == "sh" && block.text.contains("APP__API__TOKENS"));
    let commands = &commands.expect("the page makes a token").text;
    shell(&format!("{commands}\nprintf %s \"$APP__API__TOKENS\""), ".")
}

/// Runs commands, and returns what they print.
fn shell(commands: &str, folder: &str) -> String {
    let mut shell = Command::new("sh");
    let output = shell
        .args(["-e", "-c", commands])
        .current_dir(folder)
        .output()
        .expect("a shell");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{commands}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Node.js runs the script of the page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_uploads_file_and_shows_status() {
    let setup = Setup::start().await;
    let url = format!("http://127.0.0.1:{}/", setup.port);
    let page = response_to(client().get(&url)).await;
    let script = response_to(client().get(format!("{url}upload.js"))).await;
    let mut browser = Command::new("node");
    let browser = browser
        .args(["browser.js", &url])
        .current_dir(setup.program.folder())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node.js runs");

    let id = setup.wait_for_upload().await;
    setup.report(&id).await;
    let output = tokio::task::spawn_blocking(move || browser.wait_with_output());
    let output = output.await.expect("no panic").expect("it ends");

    assert_eq!((page.status.as_u16(), script.status.as_u16()), (200, 200));
    let shown = String::from_utf8(output.stdout).expect("text");
    assert_eq!(shown, "uploading\nwaiting for Cloudflare\nuploaded\n");
    let image = setup.cloudflare.image(&id).expect("it exists");
    assert_eq!(image.filename.as_deref(), Some("cat.gif"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_upload_file_and_show_status() {
    let setup = Setup::start().await;
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("cat.jpg"), "a picture").expect("a file");
    let blocks = blocks(PAGE);
    let commands = blocks
        .iter()
        .find(|block| block.value("run") == Some("upload-by-hand"));
    let commands = &commands.expect("the page has the commands").text;
    let commands = commands.replace("localhost:3000", &format!("127.0.0.1:{}", setup.port));
    let path = folder.path().to_str().expect("text").to_owned();

    let printed = tokio::task::spawn_blocking({
        let (commands, path) = (commands.clone(), path.clone());
        move || shell(&commands, &path)
    });
    let printed = printed.await.expect("no panic");

    assert!(printed.ends_with(r#"{"status": "pending"}"#), "{printed}");
    let id = setup.wait_for_upload().await;
    setup.report(&id).await;
    let last = commands.lines().last().expect("a command").to_owned();
    let last = last.replace("$image_id", &id);
    let printed = tokio::task::spawn_blocking(move || shell(&last, &path));
    let printed = printed.await.expect("no panic");
    assert_eq!(printed, r#"{"status": "uploaded"}"#);
}
