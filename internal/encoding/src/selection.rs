//! Which values of a body are wanted: all paths of a mapping merged into one tree, so that a single scan of the body
//! finds them all.
//!
//! Each distinct path has a *slot*. Slots are numbered in the order of the tree, so the slots below a node form a range;
//! that makes it cheap to forget a subtree when a later member of the same name replaces it.

use std::ops::Range;

use stream_model::definition::mapping::MAX_COLUMNS;

use crate::path::Step;

/// The node of the whole body.
pub(crate) const ROOT: usize = 0;

/// From how many keys on a node is searched by halves instead of one by one.
const BINARY_SEARCH_FROM: usize = 12;

/// The values that are wanted.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    wanted: bool,
    slot: Option<usize>,
    slots: Range<usize>,
    /// Sorted by key once the selection is finished.
    keys: Vec<(Box<str>, usize)>,
    items: Vec<(u32, usize)>,
}

impl Selection {
    /// Adds a path and returns its node, for [`Self::slot`] after [`Self::finish`].
    pub fn add(&mut self, steps: &[Step]) -> usize {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut node = ROOT;
        for step in steps {
            node = self.child_or_new(node, step);
        }
        self.nodes[node].wanted = true;
        node
    }

    fn child_or_new(&mut self, parent: usize, step: &Step) -> usize {
        let new = self.nodes.len();
        let existing = match step {
            Step::Key(key) => self.nodes[parent]
                .keys
                .iter()
                .find(|(k, _)| k == key)
                .map(|(_, n)| *n),
            Step::Index(index) => self.item(parent, *index),
        };
        if let Some(node) = existing {
            return node;
        }
        match step {
            Step::Key(key) => self.nodes[parent].keys.push((key.clone(), new)),
            Step::Index(index) => self.nodes[parent].items.push((*index, new)),
        }
        self.nodes.push(Node::default());
        new
    }

    /// Numbers the slots. Called once, after the last path was added.
    pub fn finish(&mut self) {
        if !self.nodes.is_empty() {
            let slots = self.number(ROOT, 0);
            assert!(slots <= MAX_COLUMNS, "a column has one path at most");
        }
    }

    /// Numbers the slots of a node and of those below it. The depth is bounded by the length of a path.
    fn number(&mut self, node: usize, first: usize) -> usize {
        let mut next = first;
        if self.nodes[node].wanted {
            self.nodes[node].slot = Some(next);
            next += 1;
        }
        self.nodes[node].keys.sort();
        let keys = self.nodes[node].keys.iter().map(|(_, child)| *child);
        let items = self.nodes[node].items.iter().map(|(_, child)| *child);
        for child in keys.chain(items).collect::<Vec<_>>() {
            next = self.number(child, next);
        }
        self.nodes[node].slots = first..next;
        next
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The slot of a node, when its value itself is wanted.
    pub fn slot(&self, node: usize) -> Option<usize> {
        self.nodes[node].slot
    }

    /// The node of a member of an object.
    pub fn member(&self, node: usize, key: &[u8]) -> Option<usize> {
        let keys = &self.nodes[node].keys;
        if keys.len() < BINARY_SEARCH_FROM {
            return keys
                .iter()
                .find(|(own, _)| own.as_bytes() == key)
                .map(|(_, child)| *child);
        }
        let found = keys
            .binary_search_by(|(own, _)| own.as_bytes().cmp(key))
            .ok()?;
        Some(keys[found].1)
    }

    /// Whether any member of an object at this node is wanted.
    pub fn has_members(&self, node: usize) -> bool {
        !self.nodes[node].keys.is_empty()
    }

    /// The node of an item of an array.
    pub fn item(&self, node: usize, index: u32) -> Option<usize> {
        self.nodes[node]
            .items
            .iter()
            .find(|(own, _)| *own == index)
            .map(|(_, child)| *child)
    }

    /// Whether any item of an array at this node is wanted.
    pub fn has_items(&self, node: usize) -> bool {
        !self.nodes[node].items.is_empty()
    }

    /// The slots of a node and of all nodes below it.
    pub fn slots_below(&self, node: usize) -> Range<usize> {
        self.nodes[node].slots.clone()
    }
}

/// Where the wanted values are in the text of a body. Lives on the stack: nothing is allocated per record.
#[derive(Debug)]
pub(crate) struct Found([Span; MAX_COLUMNS]);

/// Positions in a text; empty means not found, because no JSON value is empty.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

const NOT_FOUND: Span = Span { start: 0, end: 0 };

impl Found {
    /// Nothing found yet.
    pub const fn new() -> Self {
        Self([NOT_FOUND; MAX_COLUMNS])
    }

    /// The value of a slot within `text`, the text that was scanned.
    pub fn value<'a>(&self, slot: usize, text: &'a [u8]) -> Option<&'a [u8]> {
        let Span { start, end } = self.0[slot];
        let value = text.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
        if value.is_empty() { None } else { Some(value) }
    }

    /// Notes the value of a slot. Texts have less than 4 GiB, see [`crate::scan`].
    pub fn set(&mut self, slot: usize, value: Range<usize>) {
        let position = |at| u32::try_from(at).expect("the scanner refuses longer texts");
        self.0[slot] = Span {
            start: position(value.start),
            end: position(value.end),
        };
    }

    /// Forgets the values of some slots.
    pub fn forget(&mut self, slots: Range<usize>) {
        self.0[slots].fill(NOT_FOUND);
    }
}
