//! `reference/metrics.md`: the metrics of a running service, with the descriptions from its
//! `/metrics`.

use std::collections::BTreeMap;

use crate::generated::{check, code, plain, row, table};
use crate::support::app::{App, response_to};
use crate::support::database::Database;

pub(crate) const PAGE: &str = "docs/src/reference/metrics.md";

/// A metric, as `OpenMetrics` describes it.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    help: String,
    /// The labels of its samples, as `name="value"`.
    labels: Vec<String>,
}

/// Reads metrics by the name under which a query finds them: a counter's samples end in `_total`.
fn metrics(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if let ["#", "HELP" | "TYPE", name, value] = words.as_slice() {
            let metric = metrics.entry((*name).to_owned()).or_default();
            let is_help = line.starts_with("# HELP");
            let place = if is_help {
                &mut metric.help
            } else {
                &mut metric.kind
            };
            (*value).clone_into(place);
        } else if let Some((name, labels)) = words[0].split_once('{') {
            let metric = metrics.get_mut(name.trim_end_matches("_total"));
            let metric = metric.expect("a sample follows its metric");
            metric.labels.push(labels.trim_end_matches('}').to_owned());
        }
    }
    let queried = metrics
        .into_iter()
        .map(|(name, metric)| match metric.kind.as_str() {
            "counter" => (format!("{name}_total"), metric),
            _ => (name, metric),
        });
    queried.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_lists_every_metric() {
    let endpoints = r#"[{"name": "app", "url": "http://127.0.0.1:1/"}]"#;
    let variables = [("APP__RELAY__ENDPOINTS", endpoints)];
    let app = App::start_with(Database::sqlite(), &variables).await;
    app.wait_for_claim().await;
    let request = app.client().get(format!("http://{}/metrics", app.ops));
    let answer = response_to(request).await;
    let text = answer.body.as_str().expect("text");

    let metrics = metrics(text);

    assert!(metrics.len() > 8, "the metrics were found");
    let rows: Vec<String> = metrics
        .iter()
        .map(|(name, metric)| {
            let mut labels = metric.labels.clone();
            labels.sort();
            let labels: Vec<String> = labels.iter().map(|label| code(label)).collect();
            row(&[
                &code(name),
                &metric.kind,
                &labels.join(", "),
                &plain(&metric.help),
            ])
        })
        .collect();
    check(
        PAGE,
        &table(&["metric", "type", "labels", "meaning"], &rows),
    );
}

#[test]
fn reads_metrics_with_labels() {
    let text = "# HELP a_b Things.\n# TYPE a_b counter\na_b_total{result=\"x\"} 1\na_b_total{result=\"y\"} 2\n# HELP c Others.\n# TYPE c gauge\nc 3\n# EOF\n";

    let metrics = metrics(text);

    let names: Vec<&str> = metrics.keys().map(String::as_str).collect();
    assert_eq!(names, ["a_b_total", "c"]);
    assert_eq!(
        metrics["a_b_total"].labels,
        ["result=\"x\"", "result=\"y\""]
    );
    assert_eq!(metrics["c"].help, "Others.");
}
