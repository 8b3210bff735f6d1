//! The files of SQLite: each failure to use them says which file, which user and what to do, and no failure loses an
//! acknowledged webhook.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection};
use tempfile::TempDir;

use crate::support::app::{TestResponse, client, response_to};
use crate::support::program::{
    Service, UNPRIVILEGED_USER, drop_privileges, end_of, is_root, path, program, run, stderr,
    stdout,
};
use crate::support::signing::SECRET;
use crate::support::wait;

const BODY: &str = r#"{"id":"image","uploaded":"2024-01-01T12:00:00Z"}"#;

/// A webhook without an image.
const TEST_MESSAGE: &str = r#"{"text":"test message"}"#;

const SERVICE_VARIABLES: [(&str, &str); 1] = [("CLOUDFLARE_WEBHOOK_SECRET", SECRET)];

/// A function that makes the C library refuse file locks, as NFS does without its lock service.
const WITHOUT_LOCKS: &str = "
    #include <errno.h>
    #include <fcntl.h>
    #include <stdarg.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    int fcntl64(int fd, int command, ...) {
        if (command == F_SETLK || command == F_SETLKW) { errno = ENOLCK; return -1; }
        va_list list;
        va_start(list, command);
        void *argument = va_arg(list, void *);
        va_end(list);
        return syscall(SYS_fcntl, fd, command, argument);
    }
    int fcntl(int fd, int command, ...) __attribute__((alias(\"fcntl64\")));
    int flock(int fd, int operation) { errno = ENOLCK; return -1; }
";

/// A function that makes the C library refuse shared memory of files.
const WITHOUT_SHARED_MEMORY: &str = "
    #include <errno.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
        if (fd >= 0 && (flags & MAP_SHARED)) { errno = ENODEV; return MAP_FAILED; }
        return (void *) syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    }
    void *mmap(void *, size_t, int, int, int, off_t) __attribute__((alias(\"mmap64\")));
";

/// A function that deletes the write-ahead log and its index between two openings. The first opening only checks the tables. The
/// second one is that of the writer.
const DELETES_BEFORE_THIRD_OPENING: &str = r#"
    static void before_opening(const char *path, int openings) {
        char index[4096];
        if (openings != 3) { return; }
        unlink(path);
        strcpy(index, path);
        strcpy(index + strlen(index) - 3, "shm");
        unlink(index);
    }
"#;

/// Functions that replace the write-ahead log by a copy after the writer has opened it.
const REPLACES_AFTER_SECOND_OPENING: &str = r#"
    static void before_opening(const char *path, int openings) {}
    char *realpath(const char *path, char *resolved) {
        char *(*next)(const char *, char *) = dlsym(RTLD_NEXT, "realpath");
        if (openings_of_wal == 2 && replaced++ == 0) {
            system("cp data/images.db-wal copy && mv copy data/images.db-wal");
        }
        return next(path, resolved);
    }
"#;

/// Counts how often the write-ahead log was opened.
const COUNTS_OPENINGS: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <fcntl.h>
    #include <stdarg.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int openings_of_wal, replaced;
    static void before_opening(const char *path, int openings);
    int open64(const char *path, int flags, ...) {
        va_list list;
        va_start(list, flags);
        int mode = va_arg(list, int);
        va_end(list);
        size_t length = strlen(path);
        if (length > 4 && strcmp(path + length - 4, "-wal") == 0) {
            before_opening(path, ++openings_of_wal);
        }
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    }
    int open(const char *path, int flags, ...) __attribute__((alias("open64")));
"#;

/// A folder with a migrated database in `data/images.db`, which any user may enter.
fn migrated_folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    set_mode(folder.path(), 0o755);
    let migrated = run(folder.path(), &["migrate"], &[]);
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    let added = run(folder.path(), &["images", "add", "image"], &[]);
    assert!(added.status.success(), "{}", stderr(&added));
    folder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("the mode is set");
}

async fn post(service: &Service, body: &'static str) -> TestResponse {
    let webhook = client()
        .post(service.url())
        .header("cf-webhook-auth", SECRET);
    response_to(webhook.body(body)).await
}

async fn readiness(service: &Service) -> TestResponse {
    response_to(client().get(service.ops_url("/readyz"))).await
}

/// Runs `serve` in a mount namespace of its own, after this shell command.
fn serve_after(folder: &Path, mount: &str) -> Output {
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-ec"])
        .arg(format!("{mount}; exec \"$0\" serve"))
        .arg(path())
        .current_dir(folder)
        .env("APP__SERVER__LISTEN", "127.0.0.1:0")
        .env("APP__OPS__LISTEN", "127.0.0.1:0");
    end_of(command)
}

#[test]
fn refuses_files_mounted_without_their_folder() {
    for file in ["images.db", "images.db-wal"] {
        let folder = migrated_folder();
        fs::write(folder.path().join("data").join(file), "").expect("a file");
        fs::write(folder.path().join("host file"), "").expect("a file");

        let served = serve_after(
            folder.path(),
            &format!("mount --bind 'host file' data/{file}"),
        );

        let error = stderr(&served);
        assert_eq!(served.status.code(), Some(1), "{error}");
        assert!(
            error.contains(&format!("data/{file} is mounted without its folder")),
            "{error}"
        );
    }
}

#[test]
fn refuses_link_to_mounted_file() {
    let folder = migrated_folder();
    let data = folder.path().join("data");
    fs::write(folder.path().join("host file"), "").expect("a file");
    fs::create_dir(folder.path().join("my files")).expect("a folder");
    fs::write(folder.path().join("my files/images.db"), "").expect("a file");
    fs::remove_file(data.join("images.db")).expect("it exists");
    std::os::unix::fs::symlink("../my files/images.db", data.join("images.db")).expect("a link");

    let served = serve_after(
        folder.path(),
        "mount --bind 'host file' 'my files/images.db'",
    );

    let error = stderr(&served);
    assert_eq!(served.status.code(), Some(1), "{error}");
    assert!(
        error.contains("my files/images.db is mounted without its folder"),
        "{error}"
    );
}

#[test]
fn unusable_files_name_user_owner_and_remedy() {
    type Break = fn(&Path);
    let cases: [(&str, Break, &[&str]); 10] = [
        (
            "the folder cannot be created",
            |folder| {
                fs::remove_dir_all(folder.join("data")).expect("a folder");
                set_mode(folder, 0o555);
            },
            &[
                "cannot create the database folder data",
                "mode 555",
                "chown",
            ],
        ),
        (
            "the file cannot be created",
            |folder| {
                for file in fs::read_dir(folder.join("data")).expect("a folder") {
                    fs::remove_file(file.expect("a file").path()).expect("it exists");
                }
                set_mode(&folder.join("data"), 0o555);
            },
            &[
                "may not write data (owner",
                "mode 555",
                "chmod u+rwX 'data'",
            ],
        ),
        (
            "the folder cannot be written",
            |folder| set_mode(&folder.join("data"), 0o555),
            &[
                "may not write data (owner",
                "mode 555",
                "chmod u+rwX 'data'",
            ],
        ),
        (
            "the file cannot be written",
            |folder| set_mode(&folder.join("data/images.db"), 0o444),
            &[
                "may not write data/images.db (owner",
                "mode 444",
                "chmod u+rwX 'data/images.db'",
            ],
        ),
        (
            "the log cannot be written",
            |folder| {
                fs::write(folder.join("data/images.db-wal"), "").expect("a file");
                set_mode(&folder.join("data/images.db-wal"), 0o400);
            },
            &[
                "may not write data/images.db-wal (owner",
                "mode 400",
                "chmod u+rwX 'data/images.db-wal'",
            ],
        ),
        (
            "the file is a folder",
            |folder| {
                fs::remove_file(folder.join("data/images.db")).expect("it exists");
                fs::create_dir(folder.join("data/images.db")).expect("a folder");
            },
            &["data/images.db is a folder", "database.url"],
        ),
        (
            "the folder is a file",
            |folder| {
                fs::remove_dir_all(folder.join("data")).expect("a folder");
                fs::write(folder.join("data"), "").expect("a file");
            },
            &["data is a file", "database.url"],
        ),
        (
            "the file is cut short",
            |folder| {
                let file = fs::File::options()
                    .write(true)
                    .open(folder.join("data/images.db"));
                file.expect("a file").set_len(5000).expect("it is cut");
            },
            &["the file is damaged", "backup"],
        ),
        (
            "the file is damaged",
            |folder| {
                let path = folder.join("data/images.db");
                let mut bytes = fs::read(&path).expect("a file");
                bytes[100..200].fill(0xff);
                fs::write(&path, bytes).expect("a file");
            },
            &["the file is damaged", "backup"],
        ),
        (
            "the file is no database",
            |folder| {
                let file = folder.join("data/images.db");
                fs::write(&file, "text ".repeat(1000)).expect("a file");
                set_mode(&file, 0o666);
            },
            &["it is no SQLite database", "database.url"],
        ),
    ];
    for (name, break_files, expected) in cases {
        let folder = migrated_folder();
        set_mode(&folder.path().join("data"), 0o777);
        set_mode(&folder.path().join("data/images.db"), 0o666);
        break_files(folder.path());
        let mut command = program(folder.path());
        command
            .arg("serve")
            .env("APP__SERVER__LISTEN", "127.0.0.1:0")
            .env("APP__OPS__LISTEN", "127.0.0.1:0");
        drop_privileges(&mut command);

        let served = end_of(command);

        let error = stderr(&served);
        assert_eq!(served.status.code(), Some(1), "{name}: {error}");
        for text in expected {
            assert!(error.contains(text), "{name}: {text}: {error}");
        }
        if is_root() && error.contains("chown") {
            let user = format!("user {UNPRIVILEGED_USER} may not");
            assert!(error.contains(&user), "{name}: {error}");
        }
        set_mode(folder.path(), 0o755);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_needs_write_permission() {
    let folder = migrated_folder();
    set_mode(&folder.path().join("data"), 0o777);
    set_mode(&folder.path().join("data/images.db"), 0o444);
    let without_migrations = [
        SERVICE_VARIABLES[0],
        ("APP__DATABASE__MIGRATE_ON_START", "false"),
    ];
    let service = Service::start_unprivileged(folder.path(), &without_migrations);

    let (webhook, readiness) = (post(&service, BODY).await, readiness(&service).await);

    assert_eq!(webhook.outcome(), (500, "internal-error"));
    assert_eq!(readiness.status, 503);
    let problem = readiness.body["database"]["problem"].to_string();
    assert!(
        problem.contains("may not write data/images.db (owner"),
        "{problem}"
    );
}

#[test]
fn missing_locks_and_shared_memory_are_named() {
    for source in [WITHOUT_LOCKS, WITHOUT_SHARED_MEMORY] {
        let folder = migrated_folder();
        let library = compile(folder.path(), source);
        let mut command = program(folder.path());
        command
            .arg("serve")
            .env("LD_PRELOAD", library)
            .env("APP__DATABASE__TIMEOUT_SECS", "2")
            .env("APP__DATABASE__ACQUIRE_TIMEOUT_SECS", "1")
            .env("APP__SERVER__LISTEN", "127.0.0.1:0")
            .env("APP__OPS__LISTEN", "127.0.0.1:0");

        let served = end_of(command);

        let error = stderr(&served);
        assert_eq!(served.status.code(), Some(1), "{error}");
        assert!(
            error.contains("has no working locks or no shared memory"),
            "{error}"
        );
    }
}

fn compile(folder: &Path, source: &str) -> PathBuf {
    let (file, library) = (folder.join("preload.c"), folder.join("preload.so"));
    fs::write(&file, source).expect("a file");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &file])
        .status();
    assert!(compiled.expect("cc runs").success());
    library
}

#[test]
fn warns_of_network_file_system() {
    let folder = migrated_folder();
    let mounts = format!(
        "40 22 0:50 / {} rw - nfs4 server:/export rw\n",
        folder.path().canonicalize().expect("a folder").display()
    );
    fs::write(folder.path().join("mountinfo"), mounts).expect("a file");
    // The program ends after the warning.
    fs::write(folder.path().join("data/images.db"), "no database").expect("a file");

    // The shell's process becomes the program.
    let served = serve_after(folder.path(), "mount --bind mountinfo /proc/$$/mountinfo");

    let error = stderr(&served);
    assert!(
        error.contains("the SQLite file is on a network file system"),
        "{error}"
    );
    assert!(error.contains("nfs4"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_wal_or_index_loses_no_acknowledged_webhook() {
    for file in ["images.db-wal", "images.db-shm"] {
        let folder = migrated_folder();
        let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
        let acknowledged = post(&service, BODY).await.status;

        fs::remove_file(folder.path().join("data").join(file)).expect("the file exists");
        let after = post(&service, TEST_MESSAGE).await.status;
        wait_until_open_again(&service).await;
        let readiness = readiness(&service).await;
        service.signal("-KILL");
        service.wait();

        assert_eq!(
            (acknowledged.as_u16(), after.as_u16()),
            (200, 500),
            "{file}"
        );
        assert_eq!(readiness.status, 200);
        assert_is_uploaded(folder.path());
    }
}

/// While a reader has an old state of the database open, the pages cannot be copied.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_wal_stays_open_until_it_is_copied() {
    assert_waits_for_program(
        &["BEGIN", "SELECT count(*) FROM cloudflare_images"],
        "are not copied yet, retrying",
    )
    .await;
}

/// A program that still has the deleted file would share its index with the new one.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_wal_is_not_replaced_beside_another_program() {
    assert_waits_for_program(
        &["SELECT count(*) FROM cloudflare_images"],
        "another program has the database open",
    )
    .await;
}

/// Deletes the write-ahead log while another program, which has run these statements, has the database open. Asserts that the
/// service logs this and waits until the program closes the database, and that no acknowledged webhook is lost.
async fn assert_waits_for_program(statements: &[&'static str], logged: &str) {
    let folder = migrated_folder();
    let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let mut program = open_database(folder.path()).await;
    for statement in statements {
        program.execute(*statement).await.expect("it runs");
    }
    let acknowledged = post(&service, BODY).await.status;

    fs::remove_file(folder.path().join("data/images.db-wal")).expect("the file exists");
    let after = post(&service, TEST_MESSAGE).await.status;
    wait::until("the service waits for the program", || {
        service.log().iter().any(|line| line.contains(logged))
    });
    let while_waiting = post(&service, TEST_MESSAGE).await.status;
    program.close().await.expect("it closes");
    wait_until_open_again(&service).await;
    service.signal("-KILL");
    service.wait();

    let statuses = [acknowledged, after, while_waiting].map(|status| status.as_u16());
    assert_eq!(statuses, [200, 500, 500]);
    assert_is_uploaded(folder.path());
}

async fn open_database(folder: &Path) -> SqliteConnection {
    let url = format!("sqlite://{}", folder.join("data/images.db").display());
    SqliteConnection::connect(&url).await.expect("it opens")
}

async fn wait_until_open_again(service: &Service) {
    wait::until_async("the service opens the database again", async || {
        post(service, TEST_MESSAGE).await.status == 200
    })
    .await;
}

fn assert_is_uploaded(folder: &Path) {
    let shown = run(folder, &["images", "show", "image"], &[]);
    assert!(stdout(&shown).contains("uploaded"), "{}", stdout(&shown));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_wal_needs_a_restart() {
    let folder = migrated_folder();
    let wal = folder.path().join("data/images.db-wal");
    let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let acknowledged = post(&service, BODY).await.status;

    fs::rename(&wal, folder.path().join("away")).expect("the file exists");
    fs::write(&wal, "written by another program").expect("a file");
    let after = [
        post(&service, TEST_MESSAGE).await.status.as_u16(),
        post(&service, TEST_MESSAGE).await.status.as_u16(),
    ];
    let readiness = readiness(&service).await;
    fs::rename(folder.path().join("away"), &wal).expect("it is moved back");
    let restored = post(&service, TEST_MESSAGE).await.status;
    service.signal("-TERM");
    service.wait();

    assert_eq!((acknowledged.as_u16(), after), (200, [500, 500]));
    assert_eq!(readiness.status, 503);
    let problem = readiness.body["database"]["problem"].to_string();
    assert!(
        problem.contains("images.db-wal was replaced by another program"),
        "{problem}"
    );
    assert_eq!(restored, 200, "the file was moved back");
}

/// If SQLite copied the pages of the deleted file at the stop, it would overwrite the other program's.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_wal_is_saved_at_stop() {
    let folder = migrated_folder();
    let data = folder.path().join("data");
    let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let acknowledged = post(&service, BODY).await.status;
    for file in ["images.db-wal", "images.db-shm"] {
        fs::remove_file(data.join(file)).expect("the file exists");
    }
    let mut program = open_database(folder.path()).await;
    for number in 0..20 {
        let write = format!("UPDATE cloudflare_images SET creator = 'program {number}'");
        program
            .execute(AssertSqlSafe(write))
            .await
            .expect("it writes");
    }
    program.close().await.expect("it closes");

    let after = post(&service, TEST_MESSAGE).await.status;
    service.signal("-TERM");
    let exit = service.wait();

    assert_eq!((acknowledged.as_u16(), after.as_u16()), (200, 500));
    assert_eq!(exit.code(), Some(0));
    let shown = run(folder.path(), &["images", "show", "image"], &[]);
    assert!(stdout(&shown).contains("program 19"), "{}", stdout(&shown));
    assert_logged(&service, &["images.db-wal-saved-", "this file has them"]);
    assert_saved_log_is_complete(folder.path());
}

/// No webhook follows, so the service does not notice the deletion before the stop. Beside another program, SQLite does not copy
/// the pages when the service closes the database.
#[tokio::test(flavor = "multi_thread")]
async fn files_deleted_before_stop_lose_no_webhook() {
    for files in [&["-wal"][..], &["-shm"], &["-wal", "-shm"]] {
        for beside_program in [false, true] {
            let folder = migrated_folder();
            let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
            let mut program = None;
            if beside_program {
                let mut connection = open_database(folder.path()).await;
                let read = "SELECT count(*) FROM cloudflare_images";
                connection.execute(read).await.expect("it runs");
                program = Some(connection);
            }
            let acknowledged = post(&service, BODY).await.status;
            for file in files {
                let file = folder.path().join(format!("data/images.db{file}"));
                fs::remove_file(file).expect("the file exists");
            }

            service.signal("-TERM");
            let exit = service.wait();

            assert_eq!((acknowledged.as_u16(), exit.code()), (200, Some(0)));
            assert_is_uploaded(folder.path());
            drop(program);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_wal_is_saved_if_stop_cannot_copy_it() {
    let folder = migrated_folder();
    let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let mut program = open_database(folder.path()).await;
    for statement in ["BEGIN", "SELECT count(*) FROM cloudflare_images"] {
        program.execute(statement).await.expect("it runs");
    }
    let acknowledged = post(&service, BODY).await.status;
    fs::remove_file(folder.path().join("data/images.db-wal")).expect("the file exists");
    let after = post(&service, TEST_MESSAGE).await.status;

    service.signal("-TERM");
    service.wait();
    program.close().await.expect("it closes");

    assert_eq!((acknowledged.as_u16(), after.as_u16()), (200, 500));
    assert_logged(&service, &["this file has them", "another program uses"]);
    assert_saved_log_is_complete(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_delays_saving_replaced_wal() {
    let folder = migrated_folder();
    let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let acknowledged = post(&service, BODY).await.status;
    replace_wal(folder.path());
    service.set_limit("--fsize=1:");

    service.signal("-TERM");
    wait_until_logged(&service, "cannot be saved in this file, retrying").await;
    service.set_limit("--fsize=unlimited:");
    let exit = service.wait();

    assert_eq!((acknowledged.as_u16(), exit.code()), (200, Some(0)));
    assert_logged(
        &service,
        &["images.db-wal-saved-", "File too large", "free space"],
    );
    assert_saved_log_is_complete(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_at_stop_is_named() {
    for replaces in [false, true] {
        let folder = migrated_folder();
        let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
        let acknowledged = post(&service, BODY).await.status;
        if replaces {
            replace_wal(folder.path());
        } else {
            let wal = folder.path().join("data/images.db-wal");
            fs::remove_file(wal).expect("the file exists");
        }
        service.set_limit("--fsize=1:");

        service.signal("-TERM");
        let exit = service.wait();

        assert_eq!((acknowledged.as_u16(), exit.code()), (200, Some(0)));
        assert_logged(
            &service,
            &[
                "images.db-wal-saved-",
                "File too large",
                "compare the images",
            ],
        );
        let log = service.log();
        assert!(!log.iter().any(|line| line.contains("panicked")), "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_delays_copying_deleted_wal() {
    let folder = migrated_folder();
    let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let acknowledged = post(&service, BODY).await.status;
    fs::remove_file(folder.path().join("data/images.db-wal")).expect("the file exists");
    service.set_limit("--fsize=1:");

    let after = post(&service, TEST_MESSAGE).await.status;
    wait_until_logged(&service, "are not copied yet, retrying").await;
    service.set_limit("--fsize=unlimited:");
    wait_until_open_again(&service).await;
    service.signal("-KILL");
    service.wait();

    assert_eq!((acknowledged.as_u16(), after.as_u16()), (200, 500));
    assert_logged(
        &service,
        &["images.db-wal", "are not copied yet", "free disk space"],
    );
    assert_is_uploaded(folder.path());
}

/// Moves the log away, as a program does that restores a backup.
fn replace_wal(folder: &Path) {
    let wal = folder.join("data/images.db-wal");
    fs::rename(&wal, folder.join("away")).expect("the file exists");
    fs::write(&wal, "written by another program").expect("a file");
}

async fn wait_until_logged(service: &Service, text: &str) {
    wait::until_async("the service logs", async || {
        service.log().iter().any(|line| line.contains(text))
    })
    .await;
}

/// Asserts that one line of the log has all these texts.
fn assert_logged(service: &Service, texts: &[&str]) {
    let log = service.log();
    let has_all = |line: &String| texts.iter().all(|text| line.contains(text));
    assert!(log.iter().any(has_all), "{texts:?}: {log:?}");
}

/// Asserts that the saved log has the acknowledged webhook. SQLite reads the log beside a copy of the database.
fn assert_saved_log_is_complete(folder: &Path) {
    let data = folder.join("data");
    let files = fs::read_dir(&data).expect("a folder");
    let mut paths = files.map(|file| file.expect("a file").path());
    let saved = paths.find(|path| path.display().to_string().contains("-wal-saved-"));
    fs::copy(data.join("images.db"), data.join("copy.db")).expect("it is copied");
    fs::copy(saved.expect("a saved log"), data.join("copy.db-wal")).expect("it is copied");
    let variables = [("DATABASE_URL", "sqlite://data/copy.db")];
    let shown = run(folder, &["images", "show", "image"], &variables);
    assert!(stdout(&shown).contains("uploaded"), "{}", stdout(&shown));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_deleted_during_opening_lose_no_webhook() {
    for source in [DELETES_BEFORE_THIRD_OPENING, REPLACES_AFTER_SECOND_OPENING] {
        let folder = migrated_folder();
        let mut service = Service::start(folder.path(), &SERVICE_VARIABLES);
        let acknowledged = post(&service, BODY).await.status;
        service.signal("-KILL");
        service.wait();
        let library = compile(folder.path(), &format!("{COUNTS_OPENINGS}{source}"));
        let mut command = program(folder.path());
        command
            .arg("serve")
            .env("LD_PRELOAD", library)
            .env("APP__SERVER__LISTEN", "127.0.0.1:0")
            .env("APP__OPS__LISTEN", "127.0.0.1:0");

        let served = end_of(command);

        let error = stderr(&served);
        assert_eq!(
            (acknowledged.as_u16(), served.status.code()),
            (200, Some(1)),
            "{error}"
        );
        assert!(error.contains("while it was being opened"), "{error}");
        assert_is_uploaded(folder.path());
        let service = Service::start(folder.path(), &SERVICE_VARIABLES);
        assert_eq!(post(&service, TEST_MESSAGE).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn link_to_the_file_has_its_wal_checked() {
    let folder = migrated_folder();
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(folder.path().join("data"), &elsewhere).expect("it is moved");
    fs::create_dir(folder.path().join("data")).expect("a folder");
    let link = folder.path().join("data/images.db");
    std::os::unix::fs::symlink(elsewhere.join("images.db"), link).expect("a link");
    let service = Service::start(folder.path(), &SERVICE_VARIABLES);
    let acknowledged = post(&service, BODY).await.status;

    fs::remove_file(elsewhere.join("images.db-wal")).expect("the file exists");

    assert_eq!(acknowledged, 200);
    assert_eq!(post(&service, TEST_MESSAGE).await.status, 500);
}
