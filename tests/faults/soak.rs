//! Everything breaks, once in `make test`, and for `MINUTES` in `make soak`.

use std::io::Write;
use std::time::Duration;

use super::fault::Fault;
use super::ledger::verdict;
use super::table::{Row, table};
use super::trial::Trial;
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
    let faults: Vec<Fault> = faults
        .filter(|fault| fault.name().contains(&wanted))
        .collect();
    assert!(
        !faults.is_empty(),
        "nothing on this database is called {wanted}"
    );
    faults
}

async fn soak(mut trial: Trial) -> Vec<Row> {
    let mut is_over = std::pin::pin!(tokio::time::sleep(how_long()));
    let faults = faults(&trial);
    let mut rows = Vec::new();
    for fault in &faults {
        rows.push(trial.round(*fault).await);
    }
    let mut random = Numbers::at_random();
    while futures_util::poll!(&mut is_over).is_pending() {
        rows.push(trial.round(random.one(&faults)).await);
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whatever_breaks() {
    let on_postgres = Trial::on_postgres().await;
    let (on_sqlite, on_postgres) = tokio::join!(soak(Trial::on_sqlite()), soak(on_postgres));

    let _shown_where_it_is_asked_for = writeln!(
        std::io::stderr(),
        "\n{}\n\n{}\n",
        table(&on_sqlite),
        table(&on_postgres)
    );
    let broken: Vec<&Row> = on_sqlite
        .iter()
        .chain(&on_postgres)
        .filter(|row| !row.is_good())
        .collect();
    assert!(broken.is_empty(), "a promise was broken: {broken:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_twice_or_turned_back_does_not_escape_the_check() {
    for trial in [Trial::on_sqlite(), Trial::on_postgres().await] {
        let images = trial.load("round-1").await;
        let intact = verdict(&trial.database, &images, "round-1").await;
        assert!(intact.is_good() && intact.acknowledged > 100, "{intact:?}");

        let (lost, untold, again, back) =
            (&images[0].id, &images[1].id, &images[2].id, &images[3].id);
        for (sql, id) in [
            (
                "DELETE FROM cloudflare_images WHERE cloudflare_id = $1",
                lost,
            ),
            (
                "DELETE FROM cloudflare_image_logs WHERE event_type = 'webhook_received' AND data -> 'payload' ->> 'note' = 'later' AND image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = $1)",
                untold,
            ),
            (
                "INSERT INTO cloudflare_image_logs (image_id, event_type, message, data) SELECT image_id, event_type, message, data FROM cloudflare_image_logs WHERE event_type = 'webhook_received' AND data -> 'payload' ->> 'note' = 'later' AND image_id = (SELECT id FROM cloudflare_images WHERE cloudflare_id = $1)",
                again,
            ),
            (
                "UPDATE cloudflare_images SET status = 'pending' WHERE cloudflare_id = $1",
                back,
            ),
        ] {
            trial.database.execute(sql, &[id]).await;
        }
        let broken = verdict(&trial.database, &images, "round-1").await;

        // The row that is lost takes along what the trail says of its image.
        let of_the_lost: u64 = images[0]
            .sent
            .iter()
            .map(|sent| sent.acknowledged + sent.parked)
            .sum();
        assert_eq!((broken.lost, broken.regressed), (1 + of_the_lost + 1, 1));
        assert_eq!(
            broken.duplicated,
            1 + 1,
            "applied twice, and once more in the trail than it was sent"
        );
    }
}
