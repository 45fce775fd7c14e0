//! What criterion left in its folder.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Median times in nanoseconds, by group and function, in the order of the names.
pub struct Times(Vec<(String, String, f64)>);

impl Times {
    pub fn get(&self, group: &str, function: &str) -> Option<f64> {
        self.0.iter().find(|(g, f, _)| g == group && f == function).map(|(_, _, time)| *time)
    }

    pub fn of_group(&self, group: &str) -> Vec<(&str, f64)> {
        self.0.iter().filter(|(g, _, _)| g == group).map(|(_, f, time)| (f.as_str(), *time)).collect()
    }
}

/// Reads every `new/benchmark.json` with its `estimates.json`.
pub fn read(folder: &Path) -> Times {
    let mut times = Vec::new();
    visit(folder, &mut times);
    times.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    Times(times)
}

fn visit(folder: &Path, times: &mut Vec<(String, String, f64)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if path.ends_with("new") {
            times.extend(one(&path));
        } else {
            visit(&path, times);
        }
    }
}

fn one(folder: &Path) -> Option<(String, String, f64)> {
    let json = |name| serde_json::from_str::<Value>(&fs::read_to_string(folder.join(name)).ok()?).ok();
    let (benchmark, estimates) = (json("benchmark.json")?, json("estimates.json")?);
    let text = |name| benchmark[name].as_str().unwrap_or_default().to_owned();
    Some((text("group_id"), text("function_id"), estimates["median"]["point_estimate"].as_f64()?))
}
