// Package policy turns what a person wrote into an answer for every flow.
//
// A person writes rules ("api.github.com", "10.0.0.0/8:5432/tcp via tunnel") in flags or in a file. [ParseRule] and
// [ParseFile] read them and say, with line and column, what to write instead of what they refuse. [New] joins the rules
// that concern one app and compiles them into tables: a map for exact names, a map for suffixes that is walked label by
// label, and a map per prefix length for addresses. A decision is a handful of lookups and allocates nothing.
//
// [Policy.Decide] judges a flow. The order of rules does not matter; the order of questions does:
//
//  1. guards: is the address, or an IPv4 address inside it, one that only a rule for exactly it may open?
//  2. denies: does any rule deny the address or any name that was ever seen with it? One witness is enough.
//  3. allows: does a rule for the address permit it, or a rule for a name, with two witnesses? Evidence is an answer of
//     weir's own DNS to this sandbox, a claim is the name in the flow's first bytes. A claim is never enough alone.
//  4. the default, which depends on what kinds of rules there are.
//
// Decide is asked twice for one flow. Before any byte was read ([Question.Final] is false) it says whether the address
// may be dialled; once the claim is known, or known to be missing, it says whether the flow may live. The policy never
// looks anything up: names and addresses come in with the question, so that every decision can be replayed from an event.
//
// [Policy.DecideName] and [Policy.AnswerAllowed] are the same rules for DNS: a name that no rule covers is never asked
// for, and an answer that leads a public name to a private address does not survive without a rule that says so.
//
// In audit mode everything is computed in the same way, and a denial that is neither a guard nor a private address
// becomes a would-deny with the same reason. docs/policy.md has the grammar and the semantics for people.
package policy
