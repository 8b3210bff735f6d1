//! The scenarios: each fault once in `make test`, and for `MINUTES` in `make soak`.

use std::io::Write;
use std::time::Duration;

use super::expectations::{SendResult, compare};
use super::fault::Fault;
use super::load::Registration;
use super::report::{Row, table};
use super::scenario::Scenario;
use crate::support::mutation::Prng;
use crate::support::variable;

/// Returns how long to inject more faults after each was injected once.
fn extra_duration() -> Duration {
    variable("SOAK_MINUTES").map_or(Duration::ZERO, |minutes| {
        Duration::from_mins(minutes.parse().expect("SOAK_MINUTES is a number"))
    })
}

/// Returns all faults, or those with `SOAK_FAULTS` in their name.
fn faults(scenario: &Scenario) -> Vec<Fault> {
    let wanted = variable("SOAK_FAULTS").unwrap_or_default();
    let faults = Fault::of(&scenario.database).iter().copied();
    faults
        .filter(|fault| fault.name().contains(&wanted))
        .collect()
}

async fn soak(scenario: &mut Scenario, faults: &[Fault], extra_duration: Duration) -> Vec<Row> {
    let mut deadline = std::pin::pin!(tokio::time::sleep(extra_duration));
    let mut rows = Vec::new();
    for fault in faults {
        rows.push(print_row(scenario.run_round(*fault).await));
    }
    let mut random = Prng::from_entropy();
    while !faults.is_empty() && futures_util::poll!(&mut deadline).is_pending() {
        rows.push(print_row(scenario.run_round(random.pick(faults)).await));
    }
    rows
}

/// Prints the row at once, because a later row may never come.
fn print_row(row: Row) -> Row {
    let _ignored = writeln!(std::io::stderr(), "{}", row.line());
    row
}

fn assert_all_good(rows: &[Row]) {
    let _ignored = writeln!(std::io::stderr(), "\n{}", table(rows));
    let failed: Vec<&Row> = rows.iter().filter(|row| !row.is_good()).collect();
    assert!(failed.is_empty(), "failed checks: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loses_nothing_under_faults() {
    let mut on_sqlite = Scenario::on_sqlite(Registration::ByApp).await;
    let mut on_postgres = Scenario::on_postgres(Registration::ByApp).await;
    let faults = [faults(&on_sqlite), faults(&on_postgres)];
    assert!(
        faults.iter().any(|faults| !faults.is_empty()),
        "no fault matches SOAK_FAULTS"
    );

    let (sqlite, postgres) = tokio::join!(
        soak(&mut on_sqlite, &faults[0], extra_duration()),
        soak(&mut on_postgres, &faults[1], extra_duration())
    );

    assert_all_good(&[sqlite, postgres].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loses_no_inserted_images_or_events() {
    let mut on_sqlite = Scenario::on_sqlite(Registration::ByService).await;
    let mut on_postgres = Scenario::on_postgres(Registration::ByService).await;
    let faults = |scenario: &Scenario| Fault::of_publishing_service(&scenario.database);
    let (faults_on_sqlite, faults_on_postgres) = (faults(&on_sqlite), faults(&on_postgres));

    let (sqlite, postgres) = tokio::join!(
        soak(&mut on_sqlite, faults_on_sqlite, Duration::ZERO),
        soak(&mut on_postgres, faults_on_postgres, Duration::ZERO)
    );

    assert_all_good(&[sqlite, postgres].concat());
    tokio::join!(
        on_sqlite.assert_all_events_delivered(),
        on_postgres.assert_all_events_delivered()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comparison_finds_losses_duplicates_and_regressions() {
    for scenario in [
        Scenario::on_sqlite(Registration::ByApp).await,
        Scenario::on_postgres(Registration::ByApp).await,
    ] {
        let mut images = scenario.run_load("round-1").await;
        let intact = compare(&scenario.database, &images, "round-1").await;
        assert!(intact.is_good() && intact.acknowledged > 100, "{intact:?}");

        let of_image = "image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = $1)";
        let last = "event_type = 'webhook_received' AND data -> 'payload' ->> 'note' = 'later-0'";
        for (number, sql) in [
            "DELETE FROM cloudflare_images WHERE cloudflare_id = $1".to_owned(),
            format!("DELETE FROM cloudflare_image_logs WHERE {last} AND {of_image}"),
            format!(
                "INSERT INTO cloudflare_image_logs (image_id, event_type, message, data)
                 SELECT image_id, event_type, message, data FROM cloudflare_image_logs WHERE {last} AND {of_image}"
            ),
            // The status stays correct, and only `status_at` is moved back.
            "UPDATE cloudflare_images SET status_at = '2023-01-01T00:00:00.000000Z' WHERE cloudflare_id = $1".to_owned(),
            "UPDATE cloudflare_images SET status = 'pending' WHERE cloudflare_id = $1".to_owned(),
        ]
        .iter()
        .enumerate()
        {
            scenario.database.execute(sql, &[&images[number].id]).await;
        }
        // The first attempt was committed without a response, and the acknowledged second attempt
        // has no entry. The first attempt's entry must not count for the second.
        let later = images[5].sent.iter_mut().find(|sent| sent.note == "later");
        later
            .expect("there is one")
            .attempts
            .splice(0..1, [SendResult::Unknown, SendResult::Acknowledged]);
        let failed = compare(&scenario.database, &images, "round-1").await;

        // The entries of the audit log disappear with the deleted row.
        let attempts_of_deleted: usize =
            images[0].sent.iter().map(|sent| sent.attempts.len()).sum();
        let attempts_of_deleted = u64::try_from(attempts_of_deleted).expect("few");
        assert_eq!(
            (failed.lost, failed.response_lost),
            (1 + attempts_of_deleted + 1 + 1, 1)
        );
        assert_eq!(
            failed.duplicated,
            1 + 1,
            "one attempt has two entries, and both were applied"
        );
        assert_eq!(failed.regressed, 1 + 1);
    }
}
