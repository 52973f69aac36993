/// The known word a mistyped one was probably meant to be.

/// The word of `candidates` that is fewest edits from `word`; `nil` when none is close.
///
/// An edit inserts, deletes or replaces a character or swaps two neighbours. "Close" is at most a
/// third of the longer word's length, so that `al-extents` is not offered for `timeout`.
public func nearestWord(to word: String, among candidates: some Sequence<String>) -> String? {
  let typed = Array(word.utf8.prefix(64))
  var best: (word: String, distance: Int)?
  for candidate in candidates {
    let known = Array(candidate.utf8)
    let limit = max(1, max(typed.count, known.count) / 3)
    guard abs(typed.count - known.count) <= limit else { continue }
    let distance = editDistance(typed, known)
    guard distance <= limit, distance > 0 else { continue }
    if let current = best, (current.distance, current.word) <= (distance, candidate) { continue }
    best = (candidate, distance)
  }
  return best?.word
}

/// Restricted Damerau-Levenshtein distance.
private func editDistance(_ left: [UInt8], _ right: [UInt8]) -> Int {
  if left.isEmpty || right.isEmpty { return max(left.count, right.count) }
  var beforeLast = [Int](repeating: 0, count: right.count + 1)
  var last = Array(0...right.count)
  for row in 1...left.count {
    var current = [row] + [Int](repeating: 0, count: right.count)
    for column in 1...right.count {
      let cost = left[row - 1] == right[column - 1] ? 0 : 1
      var value = min(last[column] + 1, current[column - 1] + 1, last[column - 1] + cost)
      let swapped =
        row > 1 && column > 1 && left[row - 1] == right[column - 2]
        && left[row - 2] == right[column - 1]
      if swapped { value = min(value, beforeLast[column - 2] + 1) }
      current[column] = value
    }
    beforeLast = last
    last = current
  }
  return last[right.count]
}
