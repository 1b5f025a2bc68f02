//! Which source file imports which, read from the text of the sources.
//!
//! A path is followed as the compiler does: from `crate`, `self`, `super`, an imported name or a
//! child module, through re-exports, to the file that defines the item. A `mod.rs` does not import
//! what it only declares and re-exports, but it does import what it uses. Method calls name no file
//! and are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// For each file the files that it imports, each with the names used.
pub(super) type Imports = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// A module: one file.
struct Module {
    file: String,
    /// The names that its `use` declarations import.
    uses: Vec<Use>,
    /// Qualified paths in the rest of its code.
    paths: BTreeSet<Vec<String>>,
    /// All words of the rest of its code.
    words: BTreeSet<String>,
}

struct Use {
    path: Vec<String>,
    name: String,
    is_reexport: bool,
}

/// Reads the imports of the crate with these files, given with their paths from its root.
pub(super) fn imports<'a>(files: impl Iterator<Item = (&'a Path, String)>) -> Imports {
    let modules: BTreeMap<Vec<String>, Module> =
        files.map(|(path, code)| (module_path(path), Module::read(path, &code))).collect();
    let mut imports = Imports::new();
    for (own, module) in &modules {
        let found = imports.entry(module.file.clone()).or_default();
        let used = module
            .uses
            .iter()
            .filter(|used| !used.is_reexport || module.words.contains(&used.name));
        for path in used.map(|used| &used.path).chain(&module.paths) {
            if let Some((file, name)) = target(&modules, own, path, DEPTH_MAX)
                && file != module.file
            {
                found.entry(file).or_default().insert(name);
            }
        }
    }
    imports
}

/// The groups of files that import each other in a cycle.
pub(super) fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        imports.keys().map(|file| (file, reachable(imports, file))).collect();
    let mut circles = BTreeSet::new();
    for (file, from_here) in &reach {
        let circle: Vec<String> = from_here
            .iter()
            .filter(|other| reach.get(**other).is_some_and(|back| back.contains(file)))
            .map(|other| (*other).clone())
            .collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

/// The files that can be reached from a file through one or more imports.
fn reachable<'a>(imports: &'a Imports, from: &String) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&String> =
        imports.get(from).into_iter().flat_map(|next| next.keys()).collect();
    while let Some(file) = waiting.pop() {
        if found.insert(file) {
            waiting.extend(imports.get(file).into_iter().flat_map(|next| next.keys()));
        }
    }
    found
}

/// The file that defines what `path` names in the module `own`, and the name; `None` for anything
/// outside this crate.
fn target(
    modules: &BTreeMap<Vec<String>, Module>,
    own: &[String],
    path: &[String],
    depth: usize,
) -> Option<(String, String)> {
    let (first, rest) = path.split_first()?;
    let child = |at: &[String], name: &String| -> Option<Vec<String>> {
        let at = [at, std::slice::from_ref(name)].concat();
        modules.contains_key(&at).then_some(at)
    };
    let (mut at, mut rest) = match first.as_str() {
        "crate" => (Vec::new(), rest),
        "self" => (own.to_vec(), rest),
        "super" => (own.split_last()?.1.to_vec(), rest),
        _ => (own.to_vec(), path),
    };
    let is_relative = rest.len() == path.len();
    let mut steps = 0;
    while let Some((name, further)) = rest.split_first() {
        let module = modules.get(&at)?;
        if name == "super" {
            at.pop();
        } else if let Some(down) = child(&at, name) {
            at = down;
        } else if let Some(used) =
            module.uses.iter().find(|used| used.name == *name && used.path != path)
            && depth > 0
        {
            return target(modules, &at, &[&used.path, further].concat(), depth - 1);
        } else if is_relative && steps == 0 {
            // Another crate, or an item of this file.
            return None;
        } else {
            return Some((module.file.clone(), name.clone()));
        }
        steps += 1;
        rest = further;
    }
    let name = path.last()?.clone();
    modules.get(&at).map(|module| (module.file.clone(), name))
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`.
fn module_path(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.with_extension("").iter().skip(1).map(|part| part.to_string_lossy().into()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

impl Module {
    fn read(path: &Path, code: &str) -> Module {
        let tokens = tokens(code);
        let mut module = Module {
            file: path.display().to_string(),
            uses: Vec::new(),
            paths: BTreeSet::new(),
            words: BTreeSet::new(),
        };
        let mut at = 0;
        let mut is_public = false;
        while let Some(token) = tokens.get(at) {
            match token.as_str() {
                "use" => {
                    at += 1;
                    let found = module.uses.len();
                    read_use(&tokens, &mut at, &[], &mut module.uses);
                    module.uses[found..].iter_mut().for_each(|used| used.is_reexport = is_public);
                    is_public = false;
                }
                "pub" => {
                    is_public = true;
                    at += 1;
                    if tokens.get(at).is_some_and(|token| token == "(") {
                        at += tokens[at..].iter().position(|token| token == ")").unwrap_or(0) + 1;
                    }
                }
                "mod" => at += 2,
                word if is_word(word) => {
                    is_public = false;
                    let mut path = vec![word.to_owned()];
                    while tokens.get(at + 1).is_some_and(|token| token == "::")
                        && tokens.get(at + 2).is_some_and(|token| is_word(token))
                    {
                        path.push(tokens[at + 2].clone());
                        at += 2;
                    }
                    module.words.insert(path[0].clone());
                    if path.len() > 1 {
                        module.paths.insert(path);
                    }
                    at += 1;
                }
                _ => {
                    is_public = false;
                    at += 1;
                }
            }
        }
        module
    }
}

/// Reads one tree of a `use` declaration, up to the `,`, `}` or `;` after it.
fn read_use(tokens: &[String], at: &mut usize, before: &[String], uses: &mut Vec<Use>) {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        match token.as_str() {
            "::" => {}
            "{" => {
                while tokens.get(*at).is_some_and(|token| token != "}") {
                    read_use(tokens, at, &path, uses);
                    *at += usize::from(tokens.get(*at).is_some_and(|token| token == ","));
                }
                *at += 1;
                return;
            }
            "as" => {
                let name = tokens.get(*at).cloned().unwrap_or_default();
                uses.push(Use { path, name, is_reexport: false });
                *at += 1;
                return;
            }
            "self" if !path.is_empty() => {}
            // A glob's names are not known, so it counts as the module itself.
            "*" => {}
            word if is_word(word) => path.push(word.to_owned()),
            _ => {
                *at -= 1;
                break;
            }
        }
    }
    let name = path.last().cloned().unwrap_or_default();
    uses.push(Use { path, name, is_reexport: false });
}

fn is_word(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// Words, `::` and single characters, without comments, strings and character literals.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let raw = ["r#\"", "br#\"", "r\"", "br\""].iter().find(|start| rest.starts_with(**start));
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(start) = raw {
            let end = if start.contains('#') { "\"#" } else { "\"" };
            let body = &rest[start.len()..];
            start.len() + body.find(end).map_or(body.len(), |at| at + end.len())
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            character_length(rest)
        } else if is_word(rest) {
            let is_inside = |letter: char| letter.is_alphanumeric() || letter == '_';
            let length = rest.find(|letter| !is_inside(letter)).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn string_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal, or of a lifetime's quote.
fn character_length(rest: &str) -> usize {
    if rest.starts_with("'\\") {
        return rest[3..].find('\'').map_or(rest.len(), |at| at + 4);
    }
    match rest.char_indices().nth(2) {
        Some((at, '\'')) => at + 1,
        _ => 1,
    }
}

/// The longest chain of re-exports that is followed.
const DEPTH_MAX: usize = 8;

#[test]
fn paths_are_followed_to_the_file_that_defines() {
    let files = [
        ("src/lib.rs", "mod a; mod b; pub use b::run;"),
        (
            "src/a/mod.rs",
            "mod one; pub(crate) mod two;\npub(crate) use one::{One, Unused};\nstruct A(One);",
        ),
        (
            "src/a/one.rs",
            "use super::A;\nuse super::two;\nfn f() { two::g(\"crate::b::x\", '\"', '\\''); }",
        ),
        ("src/a/two.rs", "// crate::b::run\nfn g<'a>() { std::mem::drop(1); }"),
        (
            "src/b.rs",
            "use crate::a::{self, One as First, two::{self, g}};\nfn run() { crate::a::Unused::new(); }",
        ),
    ];
    let imports = imports(files.iter().map(|(path, code)| (Path::new(*path), (*code).to_owned())));
    let of = |file: &str| imports[file].keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("src/lib.rs"), Vec::<&str>::new(), "a re-export alone is no import");
    assert_eq!(of("src/a/mod.rs"), ["src/a/one.rs"], "what a re-export brings is used here");
    assert_eq!(of("src/a/one.rs"), ["src/a/mod.rs", "src/a/two.rs"]);
    assert_eq!(of("src/a/two.rs"), Vec::<&str>::new());
    assert_eq!(of("src/b.rs"), ["src/a/mod.rs", "src/a/one.rs", "src/a/two.rs"]);
    assert_eq!(circles(&imports), [["src/a/mod.rs", "src/a/one.rs"]]);
}
