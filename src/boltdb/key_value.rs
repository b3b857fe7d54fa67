//! The protobuf message that etcd keeps for each revision of a key (`mvccpb.KeyValue`): where in it the key is.

use super::error::{Error, Fault};
use super::read::ReadAt;
use super::tree::Entry;

/// Field number and wire type of the fields that are bytes: key and value.
const KEY: u64 = 1;
const VALUE: u64 = 5;
/// The fields that are numbers: revisions, version, lease.
const NUMBERS: [u64; 4] = [2, 3, 4, 6];
/// The most bytes that a number takes.
const VARINT: u64 = 10;

/// Where a user's key is in the value of an entry: its first byte, and how many.
pub fn user_key<R: ReadAt + ?Sized>(entry: &mut Entry<'_, '_, R>) -> Result<(u64, u64), Error> {
    let (page, end, fault) = (entry.page, entry.value_size, Fault::KeyValue);
    let (mut at, mut key) = (0, (0, 0));
    while at < end {
        let (tag, after) = varint(entry, at)?.ok_or(fault.at(page))?;
        let (field, wire) = (tag >> 3, tag & 7);
        let known = match field {
            KEY | VALUE => wire == 2,
            field if NUMBERS.contains(&field) => wire == 0,
            field => field != 0,
        };
        let next = match wire {
            _ if !known => None,
            0 => varint(entry, after)?.map(|(_, after)| after),
            1 => after.checked_add(8),
            5 => after.checked_add(4),
            2 => varint(entry, after)?.and_then(|(length, after)| {
                if field == KEY {
                    key = (after, length);
                }
                after.checked_add(length)
            }),
            _ => None,
        };
        at = next.filter(|next| *next <= end).ok_or(fault.at(page))?;
    }
    Ok(key)
}

/// A number and where it ends.
fn varint<R: ReadAt + ?Sized>(entry: &mut Entry<'_, '_, R>, at: u64) -> Result<Option<(u64, u64)>, Error> {
    let length = entry.value_size.saturating_sub(at).min(VARINT);
    let Some(bytes) = entry.value(at, length)? else { return Ok(None) };
    let mut number = 0;
    for (shift, byte) in (0_u32..).step_by(7).zip(bytes) {
        number |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(Some((number, at + u64::from(shift / 7) + 1)));
        }
    }
    Ok(None)
}
