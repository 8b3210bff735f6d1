//! The SQL condition that selects the entries of this service in the audit log.

/// The SQL condition for entries about webhooks, lookups and imports. Another program can have written such an entry: the Django
/// toolkit also uses `webhook_received`.
macro_rules! is_own_event {
    () => {
        "event_type IN ('webhook_received', 'webhook_duplicate', 'webhook_stale', 'webhook_accepted', 'webhook_test', 'webhook_ignored', 'reconciled', 'imported')"
    };
}
pub(super) use is_own_event;

#[cfg(test)]
mod tests {
    use crate::domain::audit::IMPORTED;
    use crate::domain::image::Status;
    use crate::domain::outcome::{Origin, Outcome};

    #[test]
    fn retention_knows_every_event_type() {
        let status = Status::Uploaded;
        let outcomes = [
            Outcome::Applied(status),
            Outcome::Duplicate(status),
            Outcome::Stale(status),
            Outcome::Accepted(status),
            Outcome::Test,
            Outcome::Ignored,
        ];
        let origins = [Origin::Webhook, Origin::Lookup];
        let event_types = origins
            .into_iter()
            .flat_map(|origin| outcomes.map(|outcome| outcome.audit_event(origin)));
        let event_types: Vec<_> = event_types.flatten().collect();
        assert_eq!(event_types.len(), outcomes.len() + 1);
        for event_type in event_types {
            assert!(is_own_event!().contains(&format!("'{event_type}'")));
        }
        assert!(is_own_event!().contains(&format!("'{IMPORTED}'")));
    }
}
