//! A node as it lies in its pages: made for writing, and verified after reading.
//!
//! *Assumes*: nothing of bytes that were read.
//! *Guarantees*: a frame comes out only when place, stamp, checksum, kind, lengths and the zeros
//! behind the content are right.
//! *Format*: `docs/format.md` sections 1 (streams over pages) and 3.

use crate::error::{Corruption, Error, Result};
use crate::types::KeyspaceNumber;

use super::compress::{self, CODEC_PLAIN, Codec, CountedIn, DecompressProblem};
use super::frame::{Frame, NodeBytes};
use super::layout::{Layout, NODE_CONTENT_BYTES_MAX, NODE_HEADER_BYTES};
use super::node_header::{FLAG_CODEC_MASK, FLAGS_KNOWN, NodeHeader, NodeKind};
use super::node_ref::NodeRef;

/// What a node is to be, apart from its content and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// What it is.
    pub kind: NodeKind,
    /// 0 for a leaf, its children's height + 1 for a parent, 0 elsewhere.
    pub height: u8,
    /// Flags, without the codec's bits.
    pub flags: u16,
    /// The keyspace, or [`KeyspaceNumber::MANY`].
    pub keyspace: KeyspaceNumber,
    /// What to store the content with, if that saves a page.
    pub codec: Codec,
}

impl NodeSpec {
    /// The header of such a node.
    pub(super) fn header(
        &self,
        reference_page: crate::types::PageNumber,
        stamp: u32,
        codec_id: u8,
        lengths: ContentLengths,
    ) -> NodeHeader {
        assert!(
            self.flags & FLAG_CODEC_MASK == 0 && self.flags & !FLAGS_KNOWN == 0,
            "flags {:#x} are none of a node's",
            self.flags
        );
        assert!((self.kind == NodeKind::Parent) == (self.height > 0), "height does not fit kind");
        assert!(
            lengths.stored_bytes <= NODE_CONTENT_BYTES_MAX
                && lengths.raw_bytes <= NODE_CONTENT_BYTES_MAX,
            "a node's content is at most {NODE_CONTENT_BYTES_MAX} bytes"
        );
        NodeHeader {
            kind: self.kind,
            height: self.height,
            flags: self.flags | u16::from(codec_id),
            page: reference_page,
            stamp,
            keyspace: self.keyspace,
            // Both at most NODE_CONTENT_BYTES_MAX.
            stored_bytes: lengths.stored_bytes as u32,
            raw_bytes: lengths.raw_bytes as u32,
        }
    }
}

/// The two lengths of a content.
#[derive(Clone, Copy, Debug)]
pub struct ContentLengths {
    /// As stored.
    pub stored_bytes: usize,
    /// After decompression.
    pub raw_bytes: usize,
}

/// Compresses `content` into `scratch` (cleared first) and says which codec to store it with: plain
/// unless compression saves at least a page. The context counts in the budget given.
pub fn choose_stored(
    layout: &Layout,
    codec: Codec,
    content: &[u8],
    scratch: &mut Vec<u8>,
    counted_in: CountedIn<'_>,
) -> Result<u8> {
    scratch.clear();
    let plain_pages = layout.node_pages(content.len());
    let worth = plain_pages > 1
        && compress::compress(codec, content, scratch, counted_in)?
        && layout.node_pages(scratch.len()) < plain_pages;
    Ok(if worth { codec.id() } else { CODEC_PLAIN })
}

/// The checksum of a node.
pub fn node_checksum(layout: &Layout, header: &NodeHeader, stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(layout.seed());
    hasher.update(&header.encode(0));
    hasher.update(stored);
    hasher.finalize()
}

/// Appends the whole pages of a node to `out`; returns its reference.
pub fn append_node(
    layout: &Layout,
    header: &NodeHeader,
    stored: &[u8],
    out: &mut Vec<u8>,
) -> NodeRef {
    assert_eq!(header.stored_bytes as usize, stored.len(), "header and content disagree");
    let checksum = node_checksum(layout, header, stored);
    let pages = layout.node_pages(stored.len());
    append_pages(layout, &header.encode(checksum), stored, out);
    NodeRef { page: header.page, pages, stamp: header.stamp, checksum }
}

/// Appends the pages of the stream `head`, `tail`, filled up with zeros.
pub fn append_pages(layout: &Layout, head: &[u8], tail: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let pages = layout.pages_for(head.len() + tail.len());
    let end = start + layout.bytes_of(pages);
    out.reserve(end - start);
    if layout.reserved_bytes == 0 {
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
    } else {
        let mut room = layout.usable_bytes();
        for mut part in [head, tail] {
            while !part.is_empty() {
                if room == 0 {
                    out.resize(out.len() + usize::from(layout.reserved_bytes), 0);
                    room = layout.usable_bytes();
                }
                let (now, later) = part.split_at_checked(room).unwrap_or((part, &[]));
                out.extend_from_slice(now);
                room -= now.len();
                part = later;
            }
        }
    }
    out.resize(end, 0);
}

/// Takes the reserved bytes out of whole pages, so that the stream remains. False when one of them
/// was not zero.
pub fn pages_to_stream(layout: &Layout, bytes: &mut Vec<u8>) -> bool {
    if layout.reserved_bytes == 0 {
        return true;
    }
    let (page_bytes, usable) = (layout.page_size as usize, layout.usable_bytes());
    let mut all_zero = true;
    let pages = bytes.len() / page_bytes;
    for page_index in 0..pages {
        let start = page_index * page_bytes;
        let reserved = bytes.get(start + usable..start + page_bytes).unwrap_or_default();
        all_zero &= reserved.iter().all(|&byte| byte == 0);
        bytes.copy_within(start..start + usable, page_index * usable);
    }
    bytes.truncate(pages * usable);
    all_zero
}

/// Verifies the pages of a node against its reference and makes a frame of them.
pub fn verify_node(
    layout: &Layout,
    reference: &NodeRef,
    kind: NodeKind,
    bytes: impl Into<NodeBytes>,
) -> Result<Frame> {
    verify_node_counted(layout, reference, kind, bytes, None)
}

/// The same for a database in whose budget the context counts.
pub fn verify_node_counted(
    layout: &Layout,
    reference: &NodeRef,
    kind: NodeKind,
    bytes: impl Into<NodeBytes>,
    counted_in: CountedIn<'_>,
) -> Result<Frame> {
    let mut bytes = bytes.into();
    let damaged = |detail: String| -> Error {
        Corruption::new(kind.structure(), detail).at_page(reference.page).into()
    };
    // Which keyspace it is of, whoever reads it knows: what the header says of it is not checked.
    if layout.reserved_bytes > 0 {
        // The content lies in several places.
        let mut stream = match bytes {
            NodeBytes::Owned(bytes) => bytes,
            NodeBytes::InPlace(mapped) => mapped.to_vec(),
        };
        if !pages_to_stream(layout, &mut stream) {
            return Err(damaged("reserved bytes of a page are not zero".into()));
        }
        bytes = stream.into();
    }
    let (header, checksum) = NodeHeader::decode(&bytes).map_err(|mut corruption| {
        corruption.structure = kind.structure();
        corruption.at_page(reference.page)
    })?;
    let stored_bytes = header.stored_bytes as usize;
    let raw_bytes = header.raw_bytes as usize;
    if stored_bytes.max(raw_bytes) > NODE_CONTENT_BYTES_MAX
        || layout.node_pages(stored_bytes) != reference.pages
    {
        return Err(damaged(format!(
            "content of {stored_bytes} bytes ({raw_bytes} raw) does not fit its {} pages",
            reference.pages
        )));
    }
    let Some((stored, rest)) =
        bytes.get(NODE_HEADER_BYTES..).and_then(|content| content.split_at_checked(stored_bytes))
    else {
        return Err(damaged(format!("content of {stored_bytes} bytes does not fit what was read")));
    };
    let computed = node_checksum(layout, &header, stored);
    if computed != checksum {
        return Err(damaged(format!("checksum is {computed:#010x}, it says {checksum:#010x}")));
    }
    if checksum != reference.checksum || header.stamp != reference.stamp {
        return Err(damaged(format!(
            "another write of this place: stamp {} and checksum {checksum:#010x}, expected {} \
             and {:#010x}",
            header.stamp, reference.stamp, reference.checksum
        )));
    }
    if header.page != reference.page {
        return Err(damaged(format!("it says that its place is page {}", header.page)));
    }
    if header.kind != kind {
        return Err(damaged(format!("it is a {}", header.kind.structure())));
    }
    if rest.iter().any(|&byte| byte != 0) {
        return Err(damaged("bytes behind its content are not zero".into()));
    }
    if header.codec_id() == CODEC_PLAIN {
        return Ok(Frame::new(*reference, header, bytes, NODE_HEADER_BYTES));
    }
    match compress::decompress(header.codec_id(), stored, raw_bytes, counted_in) {
        Ok(raw) => Ok(Frame::new(*reference, header, raw, 0)),
        Err(DecompressProblem::NotBuilt) => Err(DecompressProblem::not_built()),
        Err(DecompressProblem::UnknownCodec(id)) => Err(damaged(format!("unknown codec {id}"))),
        Err(DecompressProblem::Malformed(detail)) => Err(damaged(detail)),
    }
}
