//! Rules of the code that readers rely on: where time is read, what takes locks, which module
//! imports which, how long a file is.

mod imports;

use std::path::{Path, PathBuf};

/// Modules in the order of their imports: each may import only from those before it, or from its
/// own group.
const ORDER: &[&[&str]] = &[
    &["scheduler"],
    &["http"],
    &["platform", "clock", "error", "event", "zone"],
    &["config"],
    &["net"],
    &["account"],
    &["gate"],
    &["report"],
    &["server"],
    &["proxy"],
    &["control"],
    &["host"],
    &["run"],
    &["cli"],
];

/// The maximum number of lines in a source file, including the tests at its end; aim for 400.
const LINES_MAX: usize = 600;

/// The maximum number of lines in a function of the program; tables in tests may be longer.
const FUNCTION_LINES_MAX: usize = 70;

/// The entries of the top-level directory, apart from those that git ignores.
const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "contrib",
    "completions",
    "fuzz",
    "man",
    "src",
    "target",
    "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory, with its relative path.
fn files(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(below)];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).expect("list sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("read a source");
                let short = path.strip_prefix(root()).expect("below the root").to_owned();
                found.push((short, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there are sources below {below}");
    found
}

/// Whether the whole file is tests.
fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name == "tests" || name.ends_with("_tests"))
        || path.iter().any(|part| part == "tests")
}

/// Where the tests at the end of a file begin.
fn program_end(text: &str) -> usize {
    text.find("#[cfg(test)]\nmod tests")
        .or_else(|| text.find("#[cfg(test)]\n#[path"))
        .unwrap_or(text.len())
}

/// The lines of the program itself, without comments and without the tests at the end of the file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines =
        text[..program_end(text)].lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The top-level module of a file.
fn module(path: &Path) -> String {
    let part = path.iter().nth(1).expect("below src").to_string_lossy();
    part.trim_end_matches(".rs").to_owned()
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|group| group.contains(&module))
}

/// Places in the program's own code where a line contains one of these words, except in allowed
/// files.
fn places(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files("src") {
        let short = path.display().to_string();
        if is_test_file(&path) || allowed.contains(&short.as_str()) {
            continue;
        }
        for (number, line) in code(&text) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{short}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let own = module(&path);
        if own == "lib" || own == "main" {
            continue;
        }
        let Some(own_rank) = rank(&own) else {
            wrong.push(format!("{}: {own} has no place in the order", path.display()));
            continue;
        };
        for (number, line) in code(&text) {
            for rest in line.split("crate::").skip(1) {
                let names: Vec<String> = match rest.strip_prefix('{') {
                    Some(list) => {
                        list.split([',', '}']).map(|name| name.trim().to_owned()).collect()
                    }
                    None => vec![rest.to_owned()],
                };
                for name in names {
                    let name: String = name
                        .chars()
                        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
                        .collect();
                    if name == own {
                        continue;
                    }
                    if rank(&name).is_some_and(|rank| rank > own_rank || own == "scheduler") {
                        wrong.push(format!("{}:{number}: {own} imports {name}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources: Vec<_> = files("src")
        .into_iter()
        .filter(|(path, _)| !is_test_file(path) && !path.ends_with("main.rs"))
        .collect();
    let program = |text: &String| text[..program_end(text)].to_owned();
    let imports =
        imports::imports(sources.iter().map(|(path, text)| (path.as_path(), program(text))));
    let mut wrong = Vec::new();
    for circle in imports::circles(&imports) {
        wrong.push(format!("a circle of {} files:", circle.len()));
        for file in &circle {
            let within = imports[file].iter().filter(|(other, _)| circle.contains(other));
            wrong.extend(within.map(|(other, names)| format!("  {file} -> {other}: {names:?}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_the_clock_reads_time() {
    let found = places(&["Instant::now", "SystemTime::now"], &["src/clock.rs"]);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn only_the_gate_locks_the_scheduler() {
    let found =
        places(&["Mutex<Scheduler>", "RwLock<Scheduler>"], &["src/gate.rs", "src/gate/mod.rs"]);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn no_part_of_the_scheduler_knows_the_scheduler() {
    let mut wrong = Vec::new();
    for (path, text) in files("src/scheduler/parts") {
        for (number, line) in code(&text[..program_end(&text)]) {
            if line.contains("Scheduler") || line.contains("crate::scheduler") {
                wrong.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_scheduler_is_pure() {
    let mut wrong = Vec::new();
    for (path, text) in files("src/scheduler") {
        for (number, line) in code(&text) {
            for word in [
                "std::thread",
                "std::sync::Mutex",
                "std::sync::RwLock",
                "Condvar",
                "std::net",
                "std::fs",
                "std::env",
                "std::io",
                "println!",
                "rustix",
                "ureq",
                "HashMap<",
            ] {
                if line.contains(word) {
                    wrong.push(format!("{}:{number}: {word}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn nothing_from_outside_can_panic() {
    let found = places(&[".unwrap()", "panic!(", "todo!(", "unimplemented!("], &[]);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    let unsafe_code: Vec<String> = places(&["unsafe "], &[]);
    assert!(unsafe_code.is_empty(), "\n{}", unsafe_code.join("\n"));
}

#[test]
fn printing_happens_in_report_and_cli() {
    let found = places(
        &["println!(", "print!(", "eprint!(", "std::io::stdout()", "std::io::stderr()"],
        &[],
    );
    let wrong: Vec<&String> = found
        .iter()
        .filter(|place| {
            !["src/report/", "src/cli/", "src/report.rs", "src/cli.rs"]
                .iter()
                .any(|home| place.starts_with(home))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{wrong:#?}");
}

#[test]
fn files_have_a_purpose_and_readable_lines() {
    let mut wrong = Vec::new();
    for (path, text) in files("src").into_iter().chain(files("tests")) {
        if !text.starts_with("//!")
            && !path.ends_with("tests.rs")
            && !path.display().to_string().ends_with("_tests.rs")
        {
            wrong.push(format!("{} does not say what it is for", path.display()));
        }
        if let Some(line) =
            text.lines().position(|line| line.chars().count() > 200 && !line.contains('"'))
        {
            wrong.push(format!("{}:{} is too long to read", path.display(), line + 1));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_and_functions_are_short() {
    let (mut files_above, mut functions_above) = (Vec::new(), Vec::new());
    for (path, text) in files("src") {
        let short = path.display().to_string();
        if text.lines().count() > LINES_MAX {
            files_above.push(short.clone());
        }
        if !is_test_file(&path) {
            let long = functions(&text[..program_end(&text)])
                .into_iter()
                .filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
            functions_above.extend(long.map(|(name, _)| format!("{short}: {name}")));
        }
    }
    assert!(files_above.is_empty(), "above {LINES_MAX} lines: {files_above:?}");
    assert!(functions_above.is_empty(), "above {FUNCTION_LINES_MAX} lines: {functions_above:?}");
}

/// Each function with its number of lines. By rustfmt's indentation, it ends at the first `}` that
/// is indented like its first line.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let Some((before, after)) = code.split_once("fn ") else {
            continue;
        };
        let is_function = before
            .split(' ')
            .all(|word| ["", "pub", "const"].contains(&word) || word.starts_with("pub("));
        if !is_function || code.ends_with(['}', ';']) {
            continue;
        }
        let end = format!("{indent}}}");
        let length = lines[at..].iter().position(|line| *line == end).map_or(1, |last| last + 1);
        let name = after.split(['(', '<']).next().unwrap_or_default();
        found.push((name.to_owned(), length));
    }
    found
}

#[test]
fn a_function_ends_at_its_own_brace() {
    let text = "fn a() {}\n    pub(super) fn b<T>(\n        t: T,\n    ) {\n        if t {\n        }\n    }\n// fn c(\n";
    assert_eq!(functions(text), [("b".to_owned(), 6)]);
}

#[test]
fn the_top_of_the_tree_holds_what_it_should() {
    let entries = std::fs::read_dir(root()).expect("list the root").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let strange: Vec<String> = names.filter(|name| !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn dependencies_are_few_and_come_from_the_list() {
    let lock = include_str!("../Cargo.lock");
    let crates = lock.matches("[[package]]").count();
    assert!(crates <= 90, "{crates} packages in the lock file, those of other platforms included");
    let manifest = include_str!("../Cargo.toml");
    let dependencies = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .expect("a list");
    let mut reason = false;
    // A list of features continues on the following lines.
    let entries = dependencies.lines().filter(|line| !line.starts_with([' ', ']']));
    for line in entries.filter(|line| !line.is_empty()) {
        assert!(reason || line.starts_with('#'), "no reason is given for: {line}");
        reason = line.starts_with('#');
    }
}
