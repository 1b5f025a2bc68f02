//! What an upstream's answer means for the account and for the request (P7, P8).
