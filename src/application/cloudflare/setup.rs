//! Makes Cloudflare send webhooks about images to this service.

use secrecy::SecretString;

use super::step::{Change, Step, Subject};
use crate::cloudflare::{ApiError, Client, Destination, DestinationRequest, Policy};

/// What to set up.
pub(crate) struct SetupRequest<'a> {
    /// The public URL of the webhook.
    pub(crate) url: &'a str,
    /// The name of what is created. What exists keeps its name.
    pub(crate) name: &'a str,
    /// The secret that Cloudflare sends with each webhook.
    pub(crate) secret: &'a SecretString,
    /// Whether nothing is changed.
    pub(crate) is_dry_run: bool,
}

impl SetupRequest<'_> {
    fn destination<'a>(&'a self, name: &'a str) -> DestinationRequest<'a> {
        DestinationRequest {
            name,
            url: self.url,
            secret: self.secret,
        }
    }
}

/// Creates or repairs the webhook destination with exactly this URL, and a policy that sends notifications about images to it.
/// Reports each step after it succeeded. A second run only sends the secret again.
///
/// Cloudflare sends a test message to the URL first, so the service must run.
pub(crate) async fn setup(
    client: &Client,
    request: &SetupRequest<'_>,
    report: &mut dyn FnMut(Step),
) -> Result<(), ApiError> {
    let destination_id = set_up_destination(client, request, report).await?;
    set_up_policy(client, request, destination_id.as_deref(), report).await
}

/// Returns the id of the destination, or `None` if a dry run would create it. A destination that exists keeps its name.
async fn set_up_destination(
    client: &Client,
    request: &SetupRequest<'_>,
    report: &mut dyn FnMut(Step),
) -> Result<Option<String>, ApiError> {
    let mut step = |change, name: &str, id: Option<&str>| {
        report(Step {
            subject: Subject::Destination,
            change,
            name: name.to_owned(),
            id: id.map(str::to_owned),
        });
    };
    if let Some(found) = first_with_url(client, request.url).await? {
        if !request.is_dry_run {
            let wanted = request.destination(&found.name);
            client.update_destination(&found.id, &wanted).await?;
        }
        step(Change::Update, &found.name, Some(&found.id));
        return Ok(Some(found.id));
    }
    if request.is_dry_run {
        step(Change::Create, request.name, None);
        return Ok(None);
    }
    let wanted = request.destination(request.name);
    let created = client.create_destination(&wanted).await?;
    step(Change::Create, request.name, Some(&created));
    // Another run may have created one meanwhile. Both runs keep the first one.
    match first_with_url(client, request.url).await? {
        Some(first) if first.id != created => {
            client.delete_destination(&created).await?;
            step(Change::Delete, request.name, Some(&created));
            let wanted = request.destination(&first.name);
            client.update_destination(&first.id, &wanted).await?;
            step(Change::Update, &first.name, Some(&first.id));
            Ok(Some(first.id))
        }
        Some(_) | None => Ok(Some(created)),
    }
}

/// Returns the destination with exactly this URL. Of several, it is the one that was created first.
async fn first_with_url(client: &Client, url: &str) -> Result<Option<Destination>, ApiError> {
    let destinations = client.destinations().await?.into_iter();
    let with_url = destinations.filter(|destination| destination.url == url);
    Ok(with_url.min_by(|a, b| a.age_key().cmp(&b.age_key())))
}

async fn set_up_policy(
    client: &Client,
    request: &SetupRequest<'_>,
    destination_id: Option<&str>,
    report: &mut dyn FnMut(Step),
) -> Result<(), ApiError> {
    let mut step = |change, policy: &Policy| {
        report(Step {
            subject: Subject::Policy,
            change,
            name: policy.name.clone(),
            id: (!policy.id.is_empty()).then(|| policy.id.clone()),
        });
    };
    let found = match destination_id {
        Some(destination_id) => pointing_at(client, destination_id).await?,
        None => Vec::new(),
    };
    if let Some(policy) = found.iter().find(|policy| policy.enabled) {
        step(Change::Keep, policy);
        return Ok(());
    }
    if let Some(disabled) = found.into_iter().next() {
        let policy = Policy {
            enabled: true,
            ..disabled
        };
        if !request.is_dry_run {
            client.update_policy(&policy).await?;
        }
        step(Change::Enable, &policy);
        return Ok(());
    }
    let mut policy = Policy::new(request.name, destination_id.unwrap_or_default());
    let Some(destination_id) = destination_id.filter(|_| !request.is_dry_run) else {
        step(Change::Create, &policy);
        return Ok(());
    };
    policy.id = client.create_policy(&policy).await?;
    step(Change::Create, &policy);
    // Another run may have created one meanwhile. Both runs keep the first one.
    let found = pointing_at(client, destination_id).await?;
    let enabled = found.iter().filter(|found| found.enabled);
    let first = enabled.min_by_key(|found| found.age_key());
    if first.is_some_and(|first| first.id != policy.id) {
        client.delete_policy(&policy.id).await?;
        step(Change::Delete, &policy);
    }
    Ok(())
}

/// Returns the policies that send notifications about images to a destination.
async fn pointing_at(client: &Client, destination_id: &str) -> Result<Vec<Policy>, ApiError> {
    let policies = client.policies().await?.into_iter();
    let points = |policy: &Policy| policy.webhooks().contains(&destination_id);
    Ok(policies
        .filter(|policy| policy.is_about_images() && points(policy))
        .collect())
}
