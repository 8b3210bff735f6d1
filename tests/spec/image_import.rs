//! `images import`: inserts and updates images from CSV and JSON Lines.

use std::io::Write;

use serde_json::json;

use crate::on_both_databases;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{self, Service};
use crate::support::proxy::{NetworkCondition, Proxy};
use crate::support::signing::SECRET;
use crate::support::subscriber::{RELAY_SECRET, Received, Subscriber};
use crate::support::transfer::{Ended, Transfer, imported};
use crate::support::wait;

on_both_databases!(
    imports_csv_with_some_columns,
    imports_json_lines_from_standard_input,
    reads_files_of_spreadsheets,
    reports_each_invalid_line,
    reports_each_invalid_json_line,
    prints_only_first_invalid_lines,
    last_line_of_image_counts,
    refused_row_does_not_stop_import,
    applies_parked_notifications,
    publishes_imported_images,
    imports_beside_running_service,
    skips_records_over_limit,
    stopped_import_names_last_line,
);

fn failed(stderr: &str) -> Ended {
    Ended {
        code: Some(1),
        stdout: String::new(),
        stderr: format!("error: {stderr}\n"),
    }
}

/// Returns the end of an import that reported these lines.
fn reported(totals: &str, lines: &[&str]) -> Ended {
    Ended {
        code: Some(1),
        stdout: format!("{totals}\n"),
        stderr: lines.join("\n") + "\n",
    }
}

async fn imports_csv_with_some_columns(database: Database) {
    let transfer = Transfer::new(database);
    let file = "filename,cloudflare_id,user_id,metadata\n\
        \"a \"\"cat\"\", and\na dog.jpg\",users/7/ü,7,\"{\"\"album\"\": 3}\"\n,b,,\n";

    let first = transfer.import(file);
    let second = transfer.import(file);
    let changed = transfer.import("cloudflare_id,user_id\nb,8\nc,9\n");

    assert_eq!(first, imported(2, 0, 0));
    assert_eq!(second, imported(0, 0, 2));
    assert_eq!(changed, imported(1, 1, 0));
    let row = transfer.database.image("users/7/ü").await;
    assert_eq!(row["filename"], "a \"cat\", and\na dog.jpg");
    assert_eq!(
        (&row["user_id"], &row["metadata"]),
        (&json!(7), &json!({"album": 3}))
    );
    assert_eq!(row["status"], "pending");
    assert_eq!(transfer.database.image("b").await["user_id"], 8);
    assert_eq!(transfer.database.log_types().await, ["imported"; 4]);
}

async fn imports_json_lines_from_standard_input(database: Database) {
    let transfer = Transfer::new(database);
    let file = "{\"cloudflare_id\":\"a\",\"status\":\"failed\",\"error\":\"too large\",\"status_at\":\"2024-01-01T12:00:00+01:00\"}\n\n \
        {\"cloudflare_id\":\"b\",\"variants\":[\"https://a.example\"],\"width\":null,\"require_signed_urls\":true}";

    let ended = transfer.import_from_stdin(file);

    assert_eq!(ended, imported(2, 0, 0));
    let row = transfer.database.image("a").await;
    assert_eq!(
        (&row["status"], &row["error"]),
        (&json!("failed"), &json!("too large"))
    );
    assert_eq!(row["status_at"], "2024-01-01T11:00:00.000000Z");
    let row = transfer.database.image("b").await;
    assert_eq!(row["variants"], json!(["https://a.example"]));
    assert_eq!(row["require_signed_urls"], true);
}

async fn reads_files_of_spreadsheets(database: Database) {
    let transfer = Transfer::new(database);

    let with_mark =
        transfer.import("\u{feff}cloudflare_id,filename\r\na,\"x\r\ny\"\r\n\r\nb,z\r\n");
    let json_with_mark = transfer.import("\u{feff} \t{\"cloudflare_id\":\"c\"}\r\n");
    let without_end = transfer.import("\n\ncloudflare_id\nd");

    assert_eq!(with_mark, imported(2, 0, 0));
    assert_eq!(json_with_mark, imported(1, 0, 0));
    assert_eq!(without_end, imported(1, 0, 0));
    assert_eq!(transfer.database.image("a").await["filename"], "x\r\ny");
    for (file, error) in [
        (
            &b"cloudflare_id;filename\na;b\n"[..],
            "the cells are separated by ';'. Save the file with commas.",
        ),
        (
            b"cloudflare_id\tfilename\n",
            "the cells are separated by '\\t'. Save the file with commas.",
        ),
        (
            b"\xff\xfec\0l\0",
            "the file is UTF-16 text. Save it as UTF-8.",
        ),
        (
            b"[{\"cloudflare_id\":\"a\"}]",
            "the file is a JSON array. Write each object on a line of its own, without commas.",
        ),
        (
            b"cloudflare_id,file\na,b\n",
            "the first line must name the columns: there is no column \"file\"",
        ),
        (
            b"cloudflare_id,upload_url\na,b\n",
            "the first line must name the columns: there is no column \"upload_url\"",
        ),
        (
            b"cloudflare_id,cloudflare_id\n",
            "the first line must name the columns: the line has the column cloudflare_id twice",
        ),
        (
            b"filename\na\n",
            "the first line names no column cloudflare_id",
        ),
    ] {
        assert_eq!(transfer.import(file), failed(error));
    }
    assert_eq!(transfer.database.logs().await.len(), 4);
}

async fn reports_each_invalid_line(database: Database) {
    let transfer = Transfer::new(database);
    let long = "x".repeat(1025);
    let deep = format!("{}1{}", "[".repeat(101), "]".repeat(101));
    let mut file = b"cloudflare_id,status,status_at,user_id,require_signed_urls,metadata,variants,details_at,id,error\n".to_vec();
    for line in [
        "good,,,,,,,,,",
        "a,b",
        ",,,,,,,,,",
        &format!("{long},,,,,,,,,"),
        "a,done,,,,,,,,",
        "a,uploaded,yesterday,,,,,,,",
        "a,,2024-01-01T00:00:00Z,,,,,,,",
        "a,,,x,,,,,,",
        "a,,,,1,,,,,",
        "a,,,,,{,,,,",
        &format!("a,,,,,{deep},,,,"),
        "a,,,,,,{},,,",
        "a,,,,,,,[],,",
        "a,,,,,,,,7,",
        "a,,,,,\"{\"\"a\"\":\"\"\\u0000\"\"}\",,,,",
        "a,failed,,,,,,,,\0",
    ] {
        file.extend_from_slice(line.as_bytes());
        file.push(b'\n');
    }
    file.extend_from_slice(
        b"\xff,,,,,,,,,\n\"two\nlines\",,,,,,,,,\nlast,,,,,,,,,\n\"open,,,,,,,,,\nnext,,,,,,,,,\n",
    );

    let ended = transfer.import(file);

    let id_rule = "cloudflare_id must be text of 1 to 1024 characters, not blank and without control characters";
    let expected = reported(
        "2 inserted, 0 updated, 0 unchanged, 18 not imported",
        &[
            "line 3: the line has 2 cells instead of 10",
            "line 4: cloudflare_id is missing",
            &format!("line 5: {id_rule}"),
            "line 6: status must be pending, draft, uploaded, failed or expired",
            "line 7: status_at must be an RFC 3339 time such as 2024-01-01T12:00:00Z",
            "line 8: status_at needs a status",
            "line 9: user_id must be a whole number",
            "line 10: require_signed_urls must be true or false",
            "line 11: metadata must be JSON: EOF while parsing an object at column 1",
            "line 12: metadata must have at most 100 levels of objects and arrays",
            "line 13: variants must be a JSON array",
            "line 14: details_at must be a JSON object of times, such as {\"filename\": 1704110400000000}",
            "line 15: id must be a UUID",
            "line 16: metadata must not contain U+0000, because Postgres cannot store it",
            "line 17: error must not contain U+0000, because Postgres cannot store it",
            "line 18: the line must be UTF-8 text",
            &format!("line 19: {id_rule}"),
            "line 22: the line has a quotation mark without a second one",
        ],
    );
    assert_eq!(ended, expected);
    let ids = "SELECT cloudflare_id FROM cloudflare_images ORDER BY cloudflare_id";
    assert_eq!(transfer.database.texts(ids).await, ["good", "last"]);
}

async fn reports_each_invalid_json_line(database: Database) {
    let transfer = Transfer::new(database);
    let large = format!(
        "{{\"cloudflare_id\":\"a\",\"filename\":\"{}\"}}",
        "x".repeat(4 * 1024 * 1024)
    );
    let deep = format!("{{\"metadata\":{}", "[".repeat(200_000));
    let lines = [
        r#"{"cloudflare_id":"good"}"#,
        r#"{"cloudflare_id":"#,
        r#"{"cloudflare_id":"a"} {}"#,
        "[]",
        r#"{"cloudflare_id":"a","file":1}"#,
        r#"{"cloudflare_id":"a","error":"","error":"x"}"#,
        r#"{"filename":"a"}"#,
        r#"{"cloudflare_id":7}"#,
        r#"{"cloudflare_id":"a","user_id":"7"}"#,
        r#"{"cloudflare_id":"a","user_id":7.5}"#,
        r#"{"cloudflare_id":"a","filename":"\u0000"}"#,
        r#"{"cloudflare_id":"a","filename":"\ud800"}"#,
        r#"{"cloudflare_id":"a","cloudflare_metadata":[]}"#,
        &large,
        &deep,
        r#"{"cloudflare_id":"last"}"#,
    ];

    let ended = transfer.import(lines.join("\n"));

    let expected = reported(
        "2 inserted, 0 updated, 0 unchanged, 14 not imported",
        &[
            "line 2: the line must be a JSON object: EOF while parsing a value at column 17",
            "line 3: the line must be a JSON object: trailing characters at column 23",
            "line 4: the line must be a JSON object: invalid type: sequence, expected an object at column 0",
            "line 5: there is no column \"file\"",
            "line 6: the line has the column error twice",
            "line 7: cloudflare_id is missing",
            "line 8: cloudflare_id must be a string",
            "line 9: user_id must not be a string",
            "line 10: user_id must be a whole number",
            "line 11: filename must not contain U+0000, because Postgres cannot store it",
            "line 12: filename must be a string",
            "line 13: cloudflare_metadata must be a JSON object",
            "line 14: the line has more than 4 MiB",
            "line 15: the line must have at most 101 levels of objects and arrays",
        ],
    );
    assert_eq!(ended, expected);
}

async fn prints_only_first_invalid_lines(database: Database) {
    let transfer = Transfer::new(database);

    let ended = transfer.import(format!("cloudflare_id,user_id\n{}", "a,x\n".repeat(102)));

    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.stdout,
        "0 inserted, 0 updated, 0 unchanged, 102 not imported\n"
    );
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 101);
    assert_eq!(lines[99], "line 101: user_id must be a whole number");
    assert_eq!(lines[100], "and 2 more lines");
}

async fn last_line_of_image_counts(database: Database) {
    let transfer = Transfer::new(database);

    let ended = transfer.import("cloudflare_id,filename,user_id\na,1,1\nb,1,1\na,2,\na,,3\n");

    assert_eq!(ended, imported(2, 2, 0));
    let row = transfer.database.image("a").await;
    assert_eq!(
        (&row["filename"], &row["user_id"]),
        (&json!("2"), &json!(3))
    );
}

async fn refused_row_does_not_stop_import(database: Database) {
    let transfer = Transfer::new(database);
    assert_eq!(transfer.import("cloudflare_id\nother\n"), imported(1, 0, 0));
    let raise = if transfer.database.is_postgres() {
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON cloudflare_images FOR EACH ROW WHEN (NEW.cloudflare_id = 'b') EXECUTE FUNCTION refuse()"
    } else {
        "CREATE TRIGGER refuse BEFORE INSERT ON cloudflare_images WHEN NEW.cloudflare_id = 'b' BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    };
    transfer.database.execute_script(raise).await;

    let ended = transfer.import("cloudflare_id\na\nb\nc\nother\n");

    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.stdout,
        "2 inserted, 0 updated, 1 unchanged, 1 not imported\n"
    );
    let line = ended.stderr;
    assert!(
        line.starts_with("line 3: the database refused the row: "),
        "{line}"
    );
    assert!(line.contains("not this one"), "{line}");
}

async fn applies_parked_notifications(database: Database) {
    let transfer = Transfer::with(database, &[("CLOUDFLARE_WEBHOOK_SECRET", SECRET)]);
    let service = Service::start(transfer.folder(), &transfer.variables());
    let arguments = ["send", "--url", &service.url(), "image"];
    let sent = program::run(transfer.folder(), &arguments, &transfer.variables());
    assert!(program::stdout(&sent).contains("unknown-image"), "{sent:?}");
    drop(service);

    let ended = transfer.import("cloudflare_id\nimage\n");

    let expected = imported(1, 0, 0).stdout + "parked notifications applied: 1\n";
    assert_eq!((ended.code, ended.stdout), (Some(0), expected));
    assert_eq!(transfer.database.image("image").await["status"], "uploaded");
}

async fn publishes_imported_images(database: Database) {
    let subscriber = Subscriber::start().await;
    let endpoints = json!([{
        "name": "app", "url": subscriber.url(), "secret": RELAY_SECRET, "include_models": ["cloudflare_images.CloudflareImage"],
    }])
    .to_string();
    let variables = [
        ("APP__RELAY__ENDPOINTS", &*endpoints),
        ("CLOUDFLARE_WEBHOOK_SECRET", SECRET),
    ];
    let transfer = Transfer::with(database, &variables);

    transfer.import("cloudflare_id,filename\na,cat.jpg\n");
    transfer.import("cloudflare_id,filename\na,dog.jpg\n");

    let _service = Service::start(transfer.folder(), &transfer.variables());
    subscriber.wait_for(2).await;
    let mut bodies: Vec<_> = subscriber.received().iter().map(Received::json).collect();
    bodies.sort_by_key(|body| body["id"].to_string());
    assert_eq!(bodies[0]["event"], "created");
    assert_eq!(bodies[0]["object"]["filename"], "cat.jpg");
    assert_eq!(bodies[1]["event"], "updated");
    assert_eq!(
        bodies[1]["changes"],
        json!({"filename": {"old": "cat.jpg", "new": "dog.jpg"}})
    );
}

/// A service receives webhooks for images that are imported at the same time.
async fn imports_beside_running_service(database: Database) {
    let app = App::start_with(database, &[("APP__WEBHOOK__UNKNOWN_IMAGES", "create")]).await;
    let transfer = Transfer::new(Database::at(&app.database.url));
    let rows: Vec<String> = (0..3000)
        .map(|number| format!("image-{number},me"))
        .collect();
    let rows = rows.join("\n");
    let file = format!("cloudflare_id,original_filename\n{rows}");
    let importing = tokio::task::spawn_blocking(move || transfer.import(file));

    for number in (0..3000).step_by(50) {
        let body = json!({"id": format!("image-{number}"), "uploaded": "2024-01-01T12:00:00Z"});
        assert_eq!(
            app.post_webhook(body.to_string()).await.outcome(),
            (200, "applied")
        );
    }

    let ended = importing.await.expect("no panic");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let complete = "SELECT count(*) FROM cloudflare_images WHERE original_filename = 'me'";
    assert_eq!(app.database.count(complete).await, 3000);
    let uploaded = "SELECT count(*) FROM cloudflare_images WHERE status = 'uploaded'";
    assert_eq!(app.database.count(uploaded).await, 60);
}

async fn skips_records_over_limit(database: Database) {
    let transfer = Transfer::new(database);
    let large = "x,\n".repeat(3 * 1024 * 1024);
    let cells = ",".repeat(2000);

    let ended = transfer.import(format!(
        "cloudflare_id,filename\na,\"{large}\"\nb,{cells}\nc,{}\nd,d\n",
        "x".repeat(4 * 1024 * 1024 - 2)
    ));

    let lines = 3 * 1024 * 1024;
    let expected = reported(
        "2 inserted, 0 updated, 0 unchanged, 2 not imported",
        &[
            "line 2: the line has more than 4 MiB",
            &format!("line {}: the line has more than 1024 cells", lines + 3),
        ],
    );
    assert_eq!(ended, expected);
    assert_eq!(transfer.database.image("d").await["filename"], "d");
}

async fn stopped_import_names_last_line(database: Database) {
    let file = database.url.strip_prefix("sqlite://").map(str::to_owned);
    let proxy = match file {
        Some(_) => None,
        None => Some(Proxy::in_front_of(&database.url).await),
    };
    let url = match &proxy {
        Some(proxy) => proxy.url(&database.url),
        None => database.url.clone(),
    };
    let transfer = Transfer::with(database, &[("DATABASE_URL", &url)]);
    assert_eq!(transfer.import("cloudflare_id\n"), imported(0, 0, 0));
    let rows = |numbers: std::ops::Range<u32>| -> String {
        let rows: Vec<String> = numbers.map(|number| format!("image-{number}\n")).collect();
        rows.concat()
    };
    let mut importing = transfer.start_import();
    let mut input = importing.stdin.take().expect("it is piped");
    let start = format!("cloudflare_id\n{}", rows(0..1000));
    input.write_all(start.as_bytes()).expect("it reads");
    wait::until_async("two batches are committed", async || {
        let count = "SELECT count(*) FROM cloudflare_images";
        transfer.database.count(count).await == 1000
    })
    .await;

    // The database is gone.
    let moved = |file: &str| format!("{file}.moved");
    match (&proxy, &file) {
        (Some(proxy), _) => proxy.set(NetworkCondition::Refused),
        (None, Some(file)) => std::fs::rename(file, moved(file)).expect("it is moved"),
        (None, None) => {}
    }
    let _is_closed = input.write_all(rows(1000..1600).as_bytes());
    drop(input);
    let ended: Ended = importing.wait_with_output().expect("it ends").into();
    match (&proxy, &file) {
        (Some(proxy), _) => proxy.set(NetworkCondition::Normal),
        (None, Some(file)) => std::fs::rename(moved(file), file).expect("it is moved"),
        (None, None) => {}
    }
    let again = transfer.import(format!("cloudflare_id\n{}", rows(0..1600)));

    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
    let expected = "error: the import stopped after line 1001; repeat it to continue: ";
    // The pool may have logged the lost connection before.
    let error = ended.stderr.lines().last().unwrap_or_default();
    assert!(error.starts_with(expected), "{}", ended.stderr);
    assert_eq!(again, imported(600, 0, 1000));
}

#[test]
fn terminal_shows_progress_and_invalid_lines() {
    let transfer = Transfer::new(Database::sqlite());
    let file = "cloudflare_id,user_id\na,1\nb,x\n";
    std::fs::write(transfer.folder().join("images"), file).expect("the file is written");
    let mut command = std::process::Command::new("script");
    command
        .args([
            "-qec",
            &format!("{} images import images", program::path()),
            "/dev/null",
        ])
        .current_dir(transfer.folder())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(transfer.variables());

    let output = program::end_of(command);

    let shown = program::stdout(&output);
    assert!(
        shown.contains("\u{1b}[2K[==============================] 100 %  2 lines"),
        "{shown:?}"
    );
    assert!(
        shown.contains("\u{1b}[2Kline 3: user_id must be a whole number\r\n"),
        "{shown:?}"
    );
    let end = "\r\u{1b}[2K1 inserted, 0 updated, 0 unchanged, 1 not imported\r\n";
    assert!(shown.ends_with(end), "{shown:?}");
}

#[test]
fn missing_file_and_folder_are_errors() {
    let transfer = Transfer::new(Database::sqlite());

    let missing = transfer.images(&["import", "nowhere.csv"]);
    let folder = transfer.images(&["import", "."]);

    assert_eq!(
        missing,
        failed("cannot open nowhere.csv: No such file or directory (os error 2)")
    );
    assert_eq!(folder, failed(". is a folder"));
}
