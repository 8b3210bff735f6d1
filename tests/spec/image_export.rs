//! `images export`: all images as CSV or JSON Lines, which can be imported again.

use std::io::Read;
use std::process::Stdio;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::on_both_databases;
use crate::relay_delivery::upload;
use crate::support::app::App;
use crate::support::database::Database;
use crate::support::program::{program, stderr};
use crate::support::transfer::{Ended, Transfer, imported};

const HEADER: &str = "cloudflare_id,status,status_at,uploaded_at,error,filename,creator,require_signed_urls,variants,\
    cloudflare_metadata,details_at,metadata,user_id,original_filename,content_type,file_size,width,height,format,created_at,\
    updated_at,expires_at,last_referenced_at,id";

on_both_databases!(
    exports_csv,
    exports_json_lines,
    exports_nothing_but_header_of_empty_table,
    never_exports_upload_url,
    export_is_imported_as_same_rows,
    closed_pipe_ends_export_quietly,
);

async fn exports_csv(database: Database) {
    let app = App::start(database).await;
    upload(&app, "image").await;
    let transfer = Transfer::new(app.stop().await.1);
    let write = r#"UPDATE cloudflare_images SET creator = '=1+1, "a"', metadata = '{"a":1}', user_id = 7,
        id = '00000000-0000-0000-0000-000000000001', created_at = '2024-01-01T00:00:00.000000Z',
        updated_at = '2024-01-01T00:00:00.000000Z', expires_at = '2024-01-01T00:30:00.000000Z'"#;
    transfer.database.execute_script(write).await;

    let csv = transfer.export("csv");

    let metadata = if transfer.database.is_postgres() {
        r#""{""a"": 1}""#
    } else {
        r#""{""a"":1}""#
    };
    let row = format!(
        r#"image,uploaded,2024-01-01T12:00:00.000000Z,2024-01-01T12:00:00.000000Z,,cat.jpg,"=1+1, ""a""",false,[],{{}},"{{""filename"":1704110400000000}}",{metadata},7,,,,,,,2024-01-01T00:00:00.000000Z,2024-01-01T00:00:00.000000Z,2024-01-01T00:30:00.000000Z,,00000000-0000-0000-0000-000000000001"#
    );
    assert_eq!(csv, format!("{HEADER}\n{row}\n"));
}

async fn exports_json_lines(database: Database) {
    let app = App::start(database).await;
    upload(&app, "image").await;
    let transfer = Transfer::new(app.stop().await.1);
    let write =
        "UPDATE cloudflare_images SET creator = '=1+1', metadata = '{\"a\":\n1}', file_size = 7";
    transfer.database.execute_script(write).await;
    let row = transfer.database.image("image").await;

    let lines = transfer.export("jsonl");

    assert_eq!(lines.lines().count(), 1);
    let line: Value = serde_json::from_str(&lines).expect("JSON");
    let expected = json!({
        "cloudflare_id": "image", "status": "uploaded", "status_at": "2024-01-01T12:00:00.000000Z",
        "uploaded_at": "2024-01-01T12:00:00.000000Z", "error": "", "filename": "cat.jpg", "creator": "=1+1",
        "require_signed_urls": false, "variants": [], "cloudflare_metadata": {},
        "details_at": {"filename": 1_704_110_400_000_000_i64}, "metadata": {"a": 1}, "original_filename": "",
        "content_type": "", "file_size": 7, "format": "", "created_at": row["created_at"],
        "updated_at": row["updated_at"], "expires_at": row["expires_at"], "id": row["id"],
    });
    assert_eq!(line, expected);
}

async fn exports_nothing_but_header_of_empty_table(database: Database) {
    let app = App::start(database).await;
    let transfer = Transfer::new(app.stop().await.1);

    let (csv, lines) = (transfer.export("csv"), transfer.export("jsonl"));

    assert_eq!(
        (csv.as_str(), lines.as_str()),
        (&*format!("{HEADER}\n"), "")
    );
    assert_eq!(transfer.import(csv), imported(0, 0, 0));
    assert_eq!(transfer.import(lines), imported(0, 0, 0));
}

async fn never_exports_upload_url(database: Database) {
    let app = App::start(database).await;
    app.database.register("image").await;
    let transfer = Transfer::new(app.stop().await.1);
    let write = "UPDATE cloudflare_images SET upload_url = 'https://upload.example/one-time'";
    transfer.database.execute_script(write).await;

    let texts = transfer.export("csv") + &transfer.export("jsonl");

    assert!(!texts.contains("one-time"), "{texts}");
}

/// A text that is difficult in CSV, JSON or SQL.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("null".to_owned()),
        Just("\u{feff}{\"a\"}\r\n;\t'".to_owned()),
        Just("=HYPERLINK(\"http://a.example\")".to_owned()),
        "[ -~]{1,20}",
        "\\PC{1,20}",
        "[,;\"'\\\\\r\n\t{}\\[\\]a]{1,10}",
    ]
}

fn any_id() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!-~]{1,40}",
        "users/[0-9]/\\PC{1,10}",
        Just("ü".repeat(1024))
    ]
    .prop_filter("an id is not blank", |id| !id.trim().is_empty())
}

fn any_time() -> impl Strategy<Value = Option<String>> {
    let time = (1..253_402_300_799_999_999_i64).prop_map(|micros| {
        let time =
            cloudflare_images_webhook::domain::timestamp::Timestamp::from_unix_micros(micros);
        time.expect("it is in range").to_string()
    });
    proptest::option::of(time)
}

/// A row that an app or the service may have written, as a JSON object.
fn any_row() -> impl Strategy<Value = Value> {
    let texts = (any_id(), any_text(), any_text(), any_text(), any_text());
    let times = (
        any_time(),
        any_time(),
        any_time(),
        any_time(),
        any_time(),
        any_time(),
    );
    let status = prop::sample::select(vec!["pending", "draft", "uploaded", "failed", "expired"]);
    let numbers = (
        proptest::option::of(any::<i32>()),
        proptest::option::of(any::<i32>()),
    );
    let json = prop_oneof![
        Just(json!({})),
        Just(json!({"a": [1, -2.5, null, true, {"b": "c, \"d\"\n"}], "": "ü"})),
        any_text().prop_map(|text| json!({"text": text})),
    ];
    let details_at = prop_oneof![
        Just(json!({})),
        Just(
            json!({"filename": 5, "creator": {"draft": -7}, "variants": 253_402_300_799_999_999_i64})
        ),
        Just(json!({"require_signed_urls": 1, "cloudflare_metadata": {"draft": 2}, "creator": 3})),
    ];
    (texts, times, status, numbers, (json.clone(), json, any::<bool>(), details_at)).prop_map(
        |(texts, times, status, numbers, (metadata, cloudflare_metadata, signed, details_at))| {
            json!({
                "cloudflare_id": texts.0, "filename": texts.1, "creator": texts.2, "error": texts.3, "original_filename": texts.4,
                "status": status, "status_at": times.0, "uploaded_at": times.1, "last_referenced_at": times.2,
                "created_at": times.3, "updated_at": times.4, "expires_at": times.5,
                "user_id": numbers.0, "file_size": numbers.1, "width": numbers.0, "height": numbers.1,
                "metadata": metadata, "cloudflare_metadata": cloudflare_metadata, "variants": [texts.1],
                "require_signed_urls": signed, "details_at": details_at,
            })
        },
    )
}

/// Both formats, from the database to an empty one of each kind.
async fn export_is_imported_as_same_rows(database: Database) {
    let app = App::start(database).await;
    let source = Transfer::new(app.stop().await.1);
    let mut runner = TestRunner::new(Config::default());
    let rows = proptest::collection::vec(any_row(), 300);
    let rows = rows.new_tree(&mut runner).expect("rows").current();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let ended = source.import(lines.join("\n"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let images = async |database: &Database| {
        let mut rows = database.images_and_logs().await;
        rows.retain(|row| row.get("cloudflare_id").is_some());
        rows.sort_by_key(|row| row["cloudflare_id"].to_string());
        rows
    };
    let expected = images(&source.database).await;
    assert!(expected.len() > 100, "the rows were imported");

    for format in ["csv", "jsonl"] {
        let exported = source.export(format);
        assert_eq!(
            source.import(&exported),
            imported(0, 0, expected.len() as u64)
        );
        for database in [Database::sqlite(), Database::postgres().await] {
            let target = Transfer::new(database);

            let ended = target.import_from_stdin(&exported);

            assert_eq!(ended, imported(expected.len() as u64, 0, 0), "{format}");
            let images = images(&target.database).await;
            assert_eq!(images, expected, "{format} to {}", target.database.url);
        }
    }
    assert_eq!(images(&source.database).await, expected);
}

async fn closed_pipe_ends_export_quietly(database: Database) {
    let transfer = Transfer::new(database);
    let rows: Vec<String> = (0..20_000)
        .map(|number| format!("image-{number}"))
        .collect();
    let rows = rows.join("\n");
    assert_eq!(
        transfer.import(format!("cloudflare_id\n{rows}")),
        imported(20_000, 0, 0)
    );
    let mut command = program(transfer.folder());
    command
        .args(["images", "export"])
        .envs(transfer.variables())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());

    let mut child = command.spawn().expect("the program runs");
    let mut start = [0; 10];
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout.read_exact(&mut start).expect("it writes");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");

    assert_eq!(stderr(&output), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn missing_database_and_unknown_format_are_errors() {
    let transfer = Transfer::new(Database::sqlite());

    let missing = transfer.images(&["export"]);
    let unknown = transfer.images(&["export", "--format", "xml"]);

    let Ended { code, stderr, .. } = missing;
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: there is no database at "),
        "{stderr}"
    );
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown.stderr.contains("[possible values: csv, jsonl]"),
        "{}",
        unknown.stderr
    );
}
