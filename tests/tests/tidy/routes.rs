//! The reader's routes in `docs/architecture.md` lead through files that exist.

use crate::tree::ENGINE;

const HEADING: &str = "## 2. Routes";

/// `exists` says whether there is a file at a path from the root of the repository.
pub fn findings(page: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let paths = paths(page);
    if paths.is_empty() {
        return vec![format!("docs/architecture.md: no route under the heading {HEADING:?}")];
    }
    paths
        .into_iter()
        .filter(|path| {
            !exists(&format!("{ENGINE}/{path}.rs")) && !exists(&format!("{ENGINE}/{path}/mod.rs"))
        })
        .map(|path| format!("docs/architecture.md: the routes name {path}, which does not exist"))
        .collect()
}

/// The names in the last column of the table, each once.
fn paths(page: &str) -> Vec<String> {
    let mut paths: Vec<String> = page
        .lines()
        .skip_while(|line| *line != HEADING)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.trim_end_matches('|').rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "## 1. Floors\n| `other` |\n\n## 2. Routes\n\n| route | files |\n|---|---|\n\
        | write | `database` > `log/writer` |\n| read | `database` > `gone` |\n\n\
        ## 3. Rest\n| `a` |\n";

    #[test]
    fn a_missing_file_is_named_once() {
        let there = ["crates/sapwood/src/database.rs", "crates/sapwood/src/log/writer.rs"];
        let findings = findings(PAGE, |path| there.contains(&path));
        assert_eq!(findings, ["docs/architecture.md: the routes name gone, which does not exist"]);
    }

    #[test]
    fn a_folder_counts_by_its_first_file() {
        let there = |path: &str| path.ends_with("/mod.rs");
        assert_eq!(findings(PAGE, there), Vec::<String>::new());
    }

    #[test]
    fn a_page_without_routes_is_found() {
        assert_eq!(findings("## 1. Floors\n", |_| true).len(), 1);
    }
}
