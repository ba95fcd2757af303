//! From requests to drafts: every rule on input stands here.

use std::{collections::HashMap, time::Duration};

use minitoolstream_proto::PublishRequest;

use crate::{
    config::Config,
    error::{Error, Result, Violation},
    types::{Draft, Headers, MessageId, Subject, Timestamp, time},
};

/// Header names with this prefix are the broker's.
const RESERVED_PREFIX: &str = "mts-";

/// Longest header name, in bytes.
const HEADER_NAME_MAX: usize = 255;

/// Turns a request into a draft accepted at `now`, or lists every rule that it breaks.
///
/// `known` is a subject that was checked before: runs of messages to one subject are checked once.
pub(crate) fn draft(
    request: PublishRequest,
    known: Option<&Subject>,
    config: &Config,
    now: Timestamp,
) -> Result<Draft> {
    let mut violations = Vec::new();
    let subject = match known.filter(|known| known.as_str() == request.subject) {
        Some(known) => Some(known.clone()),
        None => collect(published_subject(&request.subject), &mut violations),
    };
    if request.data.len() as u64 > config.message_max.0 {
        let problem = format!("has {} bytes: at most {} are allowed", request.data.len(), config.message_max);
        violations.push(Violation { field: "data".into(), problem });
    }
    check_headers(&request.headers, config, &mut violations);
    let message_id = match request.message_id.as_str() {
        "" => None,
        id => collect(MessageId::parse("message_id", id), &mut violations),
    };
    let ttl = match request.ttl {
        Some(ttl) => collect(requested_ttl(ttl, config), &mut violations),
        None => subject.as_ref().and_then(|subject| default_ttl(subject, config)),
    };
    let deliver_at = match request.deliver_at {
        Some(at) => collect(requested_time("deliver_at", at, now), &mut violations).filter(|at| *at > now),
        None => None,
    };
    if deliver_at.is_some() && request.expected_last_sequence.is_some() {
        let problem = "does not go with deliver_at: nobody knows the last sequence of that time".into();
        violations.push(Violation { field: "expected_last_sequence".into(), problem });
    }
    match subject {
        Some(subject) if violations.is_empty() => Ok(Draft {
            subject,
            data: request.data,
            headers: sorted(request.headers),
            created: now,
            expires: ttl.map(|ttl| deliver_at.unwrap_or(now).after(ttl)),
            message_id,
            expected_last: request.expected_last_sequence,
            deliver_at,
            upload: None,
            uploaded: None,
        }),
        _ => Err(Error::Invalid(violations)),
    }
}

/// Refuses a batch that is empty or too long.
pub(crate) fn batch_len(field: &str, len: usize, config: &Config) -> Result<()> {
    if len == 0 || len > config.batch_max {
        let problem = format!("holds {len} messages: 1 to {} are allowed", config.batch_max);
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

fn collect<T>(result: Result<T>, violations: &mut Vec<Violation>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Error::Invalid(found)) => {
            violations.extend(found);
            None
        }
        Err(_) => None,
    }
}

fn check_headers(headers: &HashMap<String, String>, config: &Config, violations: &mut Vec<Violation>) {
    let mut refuse = |problem: String| violations.push(Violation { field: "headers".into(), problem });
    if headers.len() > config.header_count_max {
        refuse(format!("are {}: at most {} are allowed", headers.len(), config.header_count_max));
        return;
    }
    let bytes: usize = headers.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes as u64 > config.header_bytes_max.0 {
        refuse(format!("have {bytes} bytes: at most {} are allowed", config.header_bytes_max));
    }
    for key in headers.keys() {
        let shown = key.escape_debug();
        if key.is_empty() || key.len() > HEADER_NAME_MAX || key.chars().any(char::is_control) {
            refuse(format!("name '{shown}' is not 1 to {HEADER_NAME_MAX} bytes without control characters"));
        } else if key.get(..RESERVED_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED_PREFIX)) {
            refuse(format!("name '{shown}' begins with 'Mts-', which is reserved for the broker"));
        }
    }
}

fn published_subject(name: &str) -> Result<Subject> {
    let subject = Subject::parse("subject", name)?;
    if subject.is_reserved() {
        let problem = format!("'{name}' begins with '$', which is reserved for the broker: publish to another");
        return Err(Error::invalid("subject", problem));
    }
    Ok(subject)
}

/// How far ahead a message may be scheduled.
const SCHEDULE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// A time given by a user, at most a year from now.
fn requested_time(field: &str, at: prost_types::Timestamp, now: Timestamp) -> Result<Timestamp> {
    let at = past_time(field, at)?;
    if at > now.after(SCHEDULE_MAX) {
        let problem = format!("lies more than {} ahead: give an earlier time", time::show(SCHEDULE_MAX));
        return Err(Error::invalid(field, problem));
    }
    Ok(at)
}

/// A time given by a user; one before 1970 is 1970.
pub(crate) fn past_time(field: &str, at: prost_types::Timestamp) -> Result<Timestamp> {
    let (Ok(nanos), seconds) = (u64::try_from(at.nanos), u64::try_from(at.seconds).unwrap_or(0)) else {
        return Err(Error::invalid(field, format!("has {} nanoseconds: give 0 to 999999999", at.nanos)));
    };
    Ok(Timestamp(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)))
}

/// A duration given by a user, within a range.
pub(crate) fn duration(field: &str, given: prost_types::Duration, [min, max]: [Duration; 2]) -> Result<Duration> {
    let refuse = |given: String| {
        let [min, max] = [min, max].map(time::show);
        Err(Error::invalid(field, format!("of {given} is out of range: {min} to {max}")))
    };
    let (Ok(seconds), Ok(nanos)) = (given.seconds.try_into(), u32::try_from(given.nanos)) else {
        return refuse(format!("{} s and {} ns", given.seconds, given.nanos));
    };
    let duration = Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
    if (min..=max).contains(&duration) { Ok(duration) } else { refuse(time::show(duration)) }
}

fn requested_ttl(ttl: prost_types::Duration, config: &Config) -> Result<Duration> {
    duration("ttl", ttl, [Duration::from_millis(1), config.ttl_max])
}

pub(crate) fn default_ttl(subject: &Subject, config: &Config) -> Option<Duration> {
    if !config.ttl_enabled {
        return None;
    }
    let rule = config.ttl_channels.iter().find(|rule| rule.channel.matches(subject));
    Some(rule.map_or(config.ttl_default, |rule| rule.duration))
}

/// Maps have no order on the wire: sorted, a message has the same bytes wherever it came from.
fn sorted(headers: HashMap<String, String>) -> Headers {
    let mut headers: Headers = headers.into_iter().collect();
    headers.sort_unstable();
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(env: &[(&str, &str)]) -> Config {
        Config::load(None, |name| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())).unwrap()
    }

    fn refusal(request: PublishRequest, config: &Config) -> String {
        draft(request, None, config, Timestamp(0)).unwrap_err().to_string()
    }

    #[test]
    fn all_violations_are_reported_at_once() {
        let request = PublishRequest {
            subject: "a.*".into(),
            data: vec![0; 11].into(),
            headers: [("Mts-Reason".into(), "x".into())].into(),
            message_id: "x".repeat(129),
            ttl: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
            ..Default::default()
        };
        insta::assert_snapshot!(refusal(request, &config(&[("LIMITS_MESSAGE_MAX", "10")])));
    }

    #[test]
    fn data_at_the_limit_passes() {
        let config = config(&[("LIMITS_MESSAGE_MAX", "10")]);
        for (len, passes) in [(0, true), (9, true), (10, true), (11, false)] {
            let request = PublishRequest { subject: "a".into(), data: vec![0; len].into(), ..Default::default() };
            assert_eq!(draft(request, None, &config, Timestamp(0)).is_ok(), passes, "{len} bytes");
        }
    }

    #[test]
    fn ten_thousand_headers_are_one_violation() {
        let headers = (0..10_000).map(|index| (format!("h{index}"), String::new())).collect();
        let request = PublishRequest { subject: "a".into(), headers, ..Default::default() };
        assert_eq!(refusal(request, &config(&[])), "headers are 10000: at most 64 are allowed");
    }

    #[test]
    fn ttl_comes_from_the_message_then_the_first_rule_then_the_default() {
        let config = config(&[
            ("TTL_CHANNELS", "[{channel: 'logs.debug.>', duration: 1h}, {channel: 'logs.>', duration: 2h}]"),
            ("TTL_MAX", "3d"),
        ]);
        let expires = |subject: &str, ttl| {
            let request = PublishRequest { subject: subject.into(), ttl, ..Default::default() };
            draft(request, None, &config, Timestamp(0)).map(|draft| draft.expires.unwrap().0 / 3_600_000)
        };
        assert_eq!(expires("logs.debug.a", None), Ok(1));
        assert_eq!(expires("logs.a", None), Ok(2));
        assert_eq!(expires("other", None), Ok(24));
        let hours = |hours: i64| Some(prost_types::Duration { seconds: hours * 3600, nanos: 0 });
        assert_eq!(expires("logs.a", hours(5)), Ok(5));
        for refused in [0, -1, 73] {
            assert!(expires("logs.a", hours(refused)).is_err(), "{refused} h");
        }
    }
}
