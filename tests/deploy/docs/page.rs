use std::{collections::BTreeSet, fs, path::Path};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::file;

/// A page of the documentation.
pub(crate) struct Page {
    /// Its path in the repository.
    pub(crate) name: String,
    text: String,
}

/// A fenced block of a page.
pub(crate) struct Block {
    /// What stands behind the fence; empty for a block that is indented.
    pub(crate) language: String,
    pub(crate) text: String,
    /// Where it begins.
    pub(crate) line: usize,
}

impl Page {
    pub(crate) fn read(name: &str) -> Self {
        let text = fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), text }
    }

    /// All of the repository.
    pub(crate) fn all() -> Vec<Self> {
        let mut names = Vec::new();
        find(Path::new(""), &mut names);
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (event, range) in Parser::new_ext(&self.text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    let line = self.text[..range.start].lines().count() + 1;
                    blocks.push(Block { language, text: String::new(), line });
                    open = true;
                }
                Event::End(TagEnd::CodeBlock) => open = false,
                Event::Text(text) if open => blocks.last_mut().unwrap().text.push_str(&text),
                _ => {}
            }
        }
        blocks
    }

    pub(crate) fn blocks_of(&self, language: &str) -> Vec<Block> {
        self.blocks().into_iter().filter(|block| block.language == language).collect()
    }

    /// Code within its sentences.
    pub(crate) fn spans(&self) -> Vec<String> {
        let code = |event| if let Event::Code(code) = event { Some(code.into_string()) } else { None };
        self.events().filter_map(code).collect()
    }

    /// Code in the first column of tables that this is the heading of.
    pub(crate) fn column(&self, heading: &str) -> Vec<String> {
        let (mut found, mut cell, mut is_it) = (Vec::new(), 0, false);
        for event in self.events() {
            match event {
                Event::Start(Tag::Table(_)) => is_it = false,
                Event::Start(Tag::TableHead | Tag::TableRow) => cell = 0,
                Event::End(TagEnd::TableCell) => cell += 1,
                Event::Text(text) if cell == 0 && text.as_ref() == heading => is_it = true,
                Event::Code(code) if cell == 0 && is_it => found.push(code.into_string()),
                _ => {}
            }
        }
        found
    }

    /// What its links show, and where they lead.
    pub(crate) fn links(&self) -> Vec<(String, String)> {
        let mut links: Vec<(String, String)> = Vec::new();
        let mut open = false;
        for event in self.events() {
            match event {
                Event::Start(Tag::Link { dest_url, .. }) => {
                    links.push((String::new(), dest_url.into_string()));
                    open = true;
                }
                Event::End(TagEnd::Link) => open = false,
                Event::Text(text) | Event::Code(text) if open => links.last_mut().unwrap().0.push_str(&text),
                _ => {}
            }
        }
        links
    }

    /// Places on it that links can name, as GitHub makes them of headings.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let (mut anchors, mut heading) = (BTreeSet::new(), None);
        for event in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => anchors.extend(heading.take().map(|text| anchor(&text))),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        anchors
    }

    fn events(&self) -> impl Iterator<Item = Event<'_>> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES)
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn find(dir: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(file(dir.to_str().unwrap())).unwrap() {
        let entry = entry.unwrap();
        let path = dir.join(entry.file_name());
        let name = path.to_str().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with(".git") {
                find(&path, names);
            }
        } else if name.ends_with(".md") {
            names.push(name.to_owned());
        }
    }
}
