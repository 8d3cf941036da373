//! What is logged (docs/spec/controlplane.md 6.1, 6.4 and 7.3).

use serde::Serialize;

use super::{
    log_filter::{FilterError, LogFilter},
    reader::Reader,
    value,
    var::Var,
};

const RUST_LOG: Var = Var::new(
    "RUST_LOG",
    "`level`, `target=level` or `target`, comma-separated",
    "info",
    "Which lines are logged: `error`, `warn`, `info`, `debug`, `trace` or `off`, for all targets or those that begin so. \
     The most specific target decides; useful ones are `access`, `dns` and `xds`. A target alone has all its lines logged. \
     Without a level alone, all other targets are off. ztunnel's module names stand for the parts that do the same.",
);
const LOG_FORMAT: Var = Var::new(
    "LOG_FORMAT",
    "`plain` or `json`",
    "plain",
    "What a line looks like. Anything else is ignored with a warning.",
);
const POLICY_INFO: Var = Var::flag(
    "AUTHZ_POLICY_INFO_LOGGING",
    "false",
    "Denials and dry-run policies are logged at info rather than debug. Anything else than `true` and `false` is ignored \
     with a warning.",
);

/// What is logged.
#[derive(Clone, Debug, Serialize)]
pub struct LogConfig {
    /// Which lines.
    pub filter: LogFilter,
    /// What a line looks like.
    pub format: LogFormat,
    /// Policy decisions are logged at info instead of debug.
    pub policy_info: bool,
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum LogFormat {
    /// Five columns with tabs between them.
    #[default]
    Plain,
    /// A JSON object.
    Json,
}

impl LogConfig {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let parse = |text: &str| text.parse().map_err(|error: FilterError| error.to_string());
        let filter = r.parse_or_default(&RUST_LOG, parse);
        let format = r.tolerate(&LOG_FORMAT, |text| match text {
            "plain" => Ok(LogFormat::Plain),
            "json" => Ok(LogFormat::Json),
            _ => Err("not plain or json".into()),
        });
        Self {
            filter: filter.unwrap_or_default(),
            format: format.unwrap_or_default(),
            policy_info: r.tolerate(&POLICY_INFO, value::boolean).unwrap_or_default(),
        }
    }
}
