//! Floor 6: transactions.
