//! Everything breaks, once in `make test`, and for `MINUTES` in `make soak`.

use std::io::Write;
use std::time::Duration;

use super::expectations::{Answered, verdict};
use super::fault::Fault;
use super::load::Registering;
use super::report::{Row, table};
use super::scenario::Trial;
use crate::support::mutation::Numbers;
use crate::support::variable;

/// For how long things break, beside once each.
fn how_long() -> Duration {
    variable("SOAK_MINUTES").map_or(Duration::ZERO, |minutes| {
        Duration::from_mins(minutes.parse().expect("SOAK_MINUTES is a number"))
    })
}

/// What breaks: everything, or what has `SOAK_FAULTS` in its name.
fn faults(trial: &Trial) -> Vec<Fault> {
    let wanted = variable("SOAK_FAULTS").unwrap_or_default();
    let faults = Fault::of(&trial.database).iter().copied();
    faults
        .filter(|fault| fault.name().contains(&wanted))
        .collect()
}

async fn soak(trial: &mut Trial, faults: &[Fault], how_long: Duration) -> Vec<Row> {
    let mut is_over = std::pin::pin!(tokio::time::sleep(how_long));
    let mut rows = Vec::new();
    for fault in faults {
        rows.push(told(trial.round(*fault).await));
    }
    let mut random = Numbers::at_random();
    while !faults.is_empty() && futures_util::poll!(&mut is_over).is_pending() {
        rows.push(told(trial.round(random.one(faults)).await));
    }
    rows
}

/// Shown at once, where it is asked for: a later one may never come.
fn told(row: Row) -> Row {
    let _nobody_reads = writeln!(std::io::stderr(), "{}", row.line());
    row
}

fn judge(rows: &[Row]) {
    let _nobody_reads = writeln!(std::io::stderr(), "\n{}", table(rows));
    let broken: Vec<&Row> = rows.iter().filter(|row| !row.is_good()).collect();
    assert!(broken.is_empty(), "a promise was broken: {broken:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_breaks() {
    let mut on_sqlite = Trial::on_sqlite(Registering::ByAnApp).await;
    let mut on_postgres = Trial::on_postgres(Registering::ByAnApp).await;
    let faults = [faults(&on_sqlite), faults(&on_postgres)];
    assert!(
        faults.iter().any(|faults| !faults.is_empty()),
        "there is something to break"
    );

    let (sqlite, postgres) = tokio::join!(
        soak(&mut on_sqlite, &faults[0], how_long()),
        soak(&mut on_postgres, &faults[1], how_long())
    );

    judge(&[sqlite, postgres].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_of_images_that_the_service_inserts_and_of_what_it_tells() {
    let mut on_sqlite = Trial::on_sqlite(Registering::ByTheService).await;
    let mut on_postgres = Trial::on_postgres(Registering::ByTheService).await;
    let of_the_service = [Fault::ServiceStopped, Fault::ServiceKilled];

    let (sqlite, postgres) = tokio::join!(
        soak(&mut on_sqlite, &of_the_service, Duration::ZERO),
        soak(&mut on_postgres, &of_the_service, Duration::ZERO)
    );

    judge(&[sqlite, postgres].concat());
    tokio::join!(
        on_sqlite.everything_is_told(),
        on_postgres.everything_is_told()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_twice_or_turned_back_does_not_escape_the_check() {
    for trial in [
        Trial::on_sqlite(Registering::ByAnApp).await,
        Trial::on_postgres(Registering::ByAnApp).await,
    ] {
        let mut images = trial.load("round-1").await;
        let intact = verdict(&trial.database, &images, "round-1").await;
        assert!(intact.is_good() && intact.acknowledged > 100, "{intact:?}");

        let of_the_image = "image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = $1)";
        let last = "event_type = 'webhook_received' AND data -> 'payload' ->> 'note' = 'later-0'";
        for (number, sql) in [
            "DELETE FROM cloudflare_images WHERE cloudflare_id = $1".to_owned(),
            format!("DELETE FROM cloudflare_image_logs WHERE {last} AND {of_the_image}"),
            format!(
                "INSERT INTO cloudflare_image_logs (image_id, event_type, message, data)
                 SELECT image_id, event_type, message, data FROM cloudflare_image_logs WHERE {last} AND {of_the_image}"
            ),
            // It is healed, as by a redelivery.
            "UPDATE cloudflare_images SET status_at = '2023-01-01T00:00:00.000000Z' WHERE cloudflare_id = $1".to_owned(),
            "UPDATE cloudflare_images SET status = 'pending' WHERE cloudflare_id = $1".to_owned(),
        ]
        .iter()
        .enumerate()
        {
            trial.database.execute(sql, &[&images[number].id]).await;
        }
        // One whose first try was committed, and whose second was acknowledged and is not there: the first does not stand in for it.
        let later = images[5].sent.iter_mut().find(|sent| sent.note == "later");
        later
            .expect("there is one")
            .tries
            .splice(0..1, [Answered::Unknown, Answered::Acknowledged]);
        let broken = verdict(&trial.database, &images, "round-1").await;

        // The row that is lost takes along what the trail says of its image.
        let of_the_lost: usize = images[0].sent.iter().map(|sent| sent.tries.len()).sum();
        let of_the_lost = u64::try_from(of_the_lost).expect("few");
        assert_eq!((broken.lost, broken.unheard), (1 + of_the_lost + 1 + 1, 1));
        assert_eq!(
            broken.duplicated,
            1 + 1,
            "one try has two rows, and both were applied"
        );
        assert_eq!(broken.regressed, 1 + 1);
    }
}
