//! The SQL condition that selects the entries about webhooks in the audit log.

/// The SQL condition for entries about webhooks. Another program can have written such an entry: the Django toolkit also uses
/// `webhook_received`.
macro_rules! is_webhook_event {
    () => {
        "event_type IN ('webhook_received', 'webhook_duplicate', 'webhook_stale', 'webhook_test', 'webhook_ignored')"
    };
}
pub(super) use is_webhook_event;

#[cfg(test)]
mod tests {
    use crate::domain::image::Status;
    use crate::domain::outcome::Outcome;

    #[test]
    fn retention_knows_every_event_type() {
        let status = Status::Uploaded;
        let outcomes = [
            Outcome::Applied(status),
            Outcome::Duplicate(status),
            Outcome::Stale(status),
            Outcome::Test,
            Outcome::Ignored,
        ];
        for event_type in outcomes.map(Outcome::audit_event) {
            let event_type = event_type.expect("it is no rejection");
            assert!(is_webhook_event!().contains(&format!("'{event_type}'")));
        }
    }
}
