use std::process::ExitCode;

use minitoolstream_client::proto::SubjectInfo;
use serde_json::json;

use super::{
    Session,
    output::{self, Format},
};

/// Lists subjects and their books.
///
/// Of each subject, accepted = live + expired + purged.
#[derive(clap::Args)]
pub(super) struct Subjects {
    /// Only those that match: '*' is one token, '>' the rest.
    #[arg(default_value = "")]
    filter: String,
}

impl Subjects {
    pub(super) async fn run(self, session: Session) -> anyhow::Result<ExitCode> {
        let mut pages = session.connect().await?.subjects(&self.filter);
        let mut rows = Vec::new();
        while let Some(page) = pages.next_page().await? {
            for info in page {
                match session.format {
                    Format::Json => output::print_json(&subject_json(&info))?,
                    Format::Text => rows.push(row(info)),
                }
            }
        }
        if session.format == Format::Text {
            let header = ["subject", "first", "last", "live", "expired", "purged", "size", "last publish"];
            output::print_line(&output::table(&header, &[1, 2, 3, 4, 5, 6], rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn last_publish(info: &SubjectInfo) -> String {
    let at = info.last_publish.and_then(|at| std::time::SystemTime::try_from(at).ok());
    at.map_or_else(String::new, output::time)
}

fn row(info: SubjectInfo) -> Vec<String> {
    let published = last_publish(&info);
    let SubjectInfo { subject, first_sequence, last_sequence, live, expired, purged, bytes, .. } = info;
    let numbers = [first_sequence, last_sequence, live, expired, purged].map(|number| number.to_string());
    [subject].into_iter().chain(numbers).chain([output::bytes(bytes), published]).collect()
}

fn subject_json(info: &SubjectInfo) -> serde_json::Value {
    json!({
        "subject": info.subject,
        "first_sequence": info.first_sequence,
        "last_sequence": info.last_sequence,
        "accepted": info.accepted,
        "live": info.live,
        "expired": info.expired,
        "purged": info.purged,
        "bytes": info.bytes,
        "last_publish": last_publish(info),
    })
}
