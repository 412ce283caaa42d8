//! What was measured, where, when and of which commit: as JSON and CSV.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use fused_loss::Device;
use serde_json::{Value, json};

use crate::measure::Row;
use crate::scaling::{InGraph, Series};

pub struct Record {
    pub machine: String,
    pub device: String,
    pub threads: usize,
    pub commit: Option<String>,
    pub date: String,
    pub command: String,
    pub rows: Vec<Row>,
    /// What `--scaling` adds.
    pub scaling: Series,
    /// The same, on a GPU.
    pub in_graph: Vec<InGraph>,
}

impl Record {
    pub fn new(device: &Device) -> Self {
        // Without where the program is, which is nobody's business.
        let args = std::env::args().skip(1).map(|arg| format!(" {arg}")).collect::<String>();
        let dashes = if args.is_empty() { "" } else { " --" };
        Record {
            machine: if device.is_cuda() { gpu(device) } else { cpu() },
            device: device.to_string(),
            threads: rayon::current_num_threads(),
            commit: commit(),
            date: utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
            command: format!("cargo run --release -p throughput{dashes}{args}"),
            rows: Vec::new(),
            scaling: Vec::new(),
            in_graph: Vec::new(),
        }
    }

    /// Machine, date and commit in a line.
    pub fn small_print(&self) -> String {
        let commit = self.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"));
        let version = env!("CARGO_PKG_VERSION");
        format!("{} · {} · fused-loss {version}{commit} · {}", self.machine, self.device, self.date)
    }

    /// One line for each row, so that two records can be compared by diff.
    pub fn json(&self) -> String {
        let Record { machine, device, threads, commit, date, command, .. } = self;
        let head = json!({
            "program": "fused-loss", "version": env!("CARGO_PKG_VERSION"), "commit": commit, "date": date,
            "machine": machine, "device": device, "threads": threads, "command": command,
        });
        let head = head.as_object().expect("it is one").iter();
        let mut fields: Vec<String> = head.map(|(name, value)| format!("  \"{name}\": {value}")).collect();
        let list = |name: &str, rows: &[Row], indent: &str| {
            let rows: Vec<String> = rows.iter().map(|row| format!("{indent}  {}", json_row(row))).collect();
            format!("{indent}\"{name}\": [\n{}\n{indent}]", rows.join(",\n"))
        };
        fields.push(list("rows", &self.rows, "  "));
        if !self.scaling.is_empty() {
            let series: Vec<String> = self.scaling.iter().map(|(name, rows)| list(name, rows, "    ")).collect();
            fields.push(format!("  \"scaling\": {{\n{}\n  }}", series.join(",\n")));
        }
        if !self.in_graph.is_empty() {
            let rows = self.in_graph.iter().map(|row| {
                let InGraph { loss, dtype, shape, ns, empty_ns } = row;
                let [ns, empty_ns] = [ns, empty_ns].map(|ns| round(*ns, 1));
                let dtype = dtype.name();
                json!({ "loss": loss, "dtype": dtype, "shape": shape, "ns": ns, "empty_ns": empty_ns })
            });
            let rows: Vec<String> = rows.map(|row| format!("    {row}")).collect();
            fields.push(format!("  \"in_graph\": [\n{}\n  ]", rows.join(",\n")));
        }
        format!("{{\n{}\n}}\n", fields.join(",\n"))
    }

    pub fn csv(&self) -> String {
        let mut csv = "loss,dtype,shape,threads,ns,gbs,share,copy_gbs,bytes,launches\n".to_string();
        for row in self.rows.iter().chain(self.scaling.iter().flat_map(|(_, rows)| rows)) {
            let (loss, size, launches) = (&row.loss, row.size(), row.launches.map_or(String::new(), |n| n.to_string()));
            let (dtype, threads, ns, bytes) = (row.dtype.name(), row.threads, row.ns, row.bytes);
            let (gbs, share, copy) = (row.gbs(), row.share(), row.copy_gbs());
            csv += &format!(
                "\"{loss}\",{dtype},{size},{threads},{ns:.1},{gbs:.3},{share:.4},{copy:.3},{bytes},{launches}\n"
            );
        }
        csv
    }
}

fn round(x: f64, digits: i32) -> f64 {
    (x * 10f64.powi(digits)).round() / 10f64.powi(digits)
}

fn json_row(row: &Row) -> Value {
    json!({
        "loss": row.loss, "dtype": row.dtype.name(), "shape": row.shape, "threads": row.threads,
        "ns": round(row.ns, 1), "gbs": round(row.gbs(), 2), "share": round(row.share(), 3),
        "copy_gbs": round(row.copy_gbs(), 2), "bytes": row.bytes, "launches": row.launches,
    })
}

/// What the processor calls itself.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1));
    model.unwrap_or(std::env::consts::ARCH).trim().into()
}

/// The GPU, and its driver's version where Linux knows it.
fn gpu(device: &Device) -> String {
    let version = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let number = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let name = device.to_string();
    let name = name.trim_start_matches("CUDA (").trim_end_matches(')');
    match version.split_whitespace().find(number) {
        Some(version) => format!("{name}, driver {version}"),
        None => name.into(),
    }
}

/// Of the source that this was built from, if it is still there and git is.
fn commit() -> Option<String> {
    let git = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"];
    let out = Command::new("git").args(git).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().into())
}

/// `2026-01-31 23:59 UTC`
fn utc(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86400, seconds % 86400 / 60);
    // Years that begin in March, so that the day that comes and goes is the last: Hinnant's `civil_from_days`.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::timing::Dtype;

    pub fn record() -> Record {
        let row = |loss: &str, shape: &[usize], threads, ns, bytes, launches| Row {
            loss: loss.into(),
            dtype: Dtype::F32,
            shape: shape.into(),
            threads,
            ns,
            copy_ns: 1000.0,
            bytes,
            copy_bytes: 8000,
            launches,
        };
        Record {
            machine: "A \"fast\" one".into(),
            device: "CPU (2 threads)".into(),
            threads: 2,
            commit: None,
            date: utc(0),
            command: "cargo run".into(),
            rows: vec![
                row("mse", &[1000], 2, 2000.0, 12000, None),
                row("dice[index+sigmoid]", &[2, 5, 9], 0, 0.1, 9, Some(2)),
            ],
            scaling: Vec::new(),
            in_graph: Vec::new(),
        }
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59 UTC");
    }

    #[test]
    fn json_has_the_machine_and_a_row_a_line() {
        let json = record().json();
        let value: Value = serde_json::from_str(&json).unwrap();
        for name in ["program", "version", "date", "machine", "device", "command"] {
            assert!(value[name].is_string(), "{name}: {json}");
        }
        assert_eq!(
            (&value["commit"], &value["threads"], &value["machine"]),
            (&Value::Null, &json!(2), &json!("A \"fast\" one"))
        );
        let row = json!({
            "loss": "mse", "dtype": "f32", "shape": [1000], "threads": 2, "ns": 2000.0, "gbs": 6.0, "share": 0.75,
            "copy_gbs": 8.0, "bytes": 12000, "launches": null,
        });
        assert_eq!(&value["rows"][0], &row);
        assert_eq!((&value["rows"][1]["shape"], &value["rows"][1]["launches"]), (&json!([2, 5, 9]), &json!(2)));
        assert_eq!(json.lines().filter(|line| line.contains("\"loss\"")).count(), 2);
        assert!(value["scaling"].is_null());

        let scaling = vec![("n", record().rows), ("classes", Vec::new())];
        let value: Value = serde_json::from_str(&Record { scaling, ..record() }.json()).unwrap();
        assert_eq!((&value["scaling"]["n"][0], &value["scaling"]["classes"]), (&row, &json!([])));
    }

    #[test]
    fn csv_has_as_many_fields_in_each_line() {
        let csv = record().csv();
        assert_eq!(csv.lines().nth(1).unwrap(), "\"mse\",f32,1000,2,2000.0,6.000,0.7500,8.000,12000,");
        assert!(csv.lines().all(|line| line.split(',').count() == 10), "{csv}");
    }
}
