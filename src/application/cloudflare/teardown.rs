//! Removes what the set-up made at Cloudflare.

use super::step::{Change, Step, Subject};
use crate::cloudflare::{ApiError, Client, Destination, Policy};

/// What a removal would delete, and what it leaves.
#[derive(Debug, Default)]
pub(crate) struct TeardownPlan {
    pub(crate) destinations: Vec<Destination>,
    pub(crate) policies: Vec<Policy>,
    /// Destinations with the URL that have another name, so the set-up did not make them.
    pub(crate) others: Vec<Destination>,
}

impl TeardownPlan {
    pub(crate) fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.policies.is_empty()
    }
}

/// Finds what the set-up made: the destinations with exactly this URL and name, and the policies that it marked and that point at
/// nothing else.
pub(crate) async fn plan_teardown(
    client: &Client,
    url: &str,
    name: &str,
) -> Result<TeardownPlan, ApiError> {
    let with_url = client.destinations().await?.into_iter();
    let with_url = with_url.filter(|destination| destination.url == url);
    let (destinations, others): (Vec<_>, Vec<_>) =
        with_url.partition(|destination| destination.name == name);
    let is_ours = |policy: &Policy| {
        let webhooks = policy.webhooks();
        let points_only_at_ours = webhooks
            .iter()
            .all(|id| destinations.iter().any(|destination| destination.id == *id));
        policy.is_made_by_setup() && !webhooks.is_empty() && points_only_at_ours
    };
    let policies = client.policies().await?.into_iter();
    let policies = policies.filter(is_ours).collect();
    Ok(TeardownPlan {
        destinations,
        policies,
        others,
    })
}

/// Deletes what the plan has. Reports each step after it succeeded. What is already gone counts as deleted.
pub(crate) async fn tear_down(
    client: &Client,
    plan: TeardownPlan,
    report: &mut dyn FnMut(Step),
) -> Result<(), ApiError> {
    // A policy must not point at a destination that is gone.
    for policy in plan.policies {
        client.delete_policy(&policy.id).await?;
        report(Step {
            subject: Subject::Policy,
            change: Change::Delete,
            name: policy.name,
            id: Some(policy.id),
        });
    }
    for destination in plan.destinations {
        client.delete_destination(&destination.id).await?;
        report(Step {
            subject: Subject::Destination,
            change: Change::Delete,
            name: destination.name,
            id: Some(destination.id),
        });
    }
    Ok(())
}
