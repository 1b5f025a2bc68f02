# bash completion for maxpool
# Bash takes an e-mail address for several words and completes the last of them, so what it holds
# for the words before is left out of the replies.
_maxpool_accounts() {
  local IFS=$'\n' name before=
  case $COMP_WORDBREAKS in *@*) before=${cur%"${cur##*[@:]}"} ;; esac
  for name in $(maxpool accounts --names 2>/dev/null); do
    case $name in "$cur"*) COMPREPLY+=("$(printf %q "${name#"$before"}")") ;; esac
  done
}
_maxpool() {
  local line=${COMP_LINE:0:COMP_POINT} words cur prev command=server found= operands=0 i
  read -ra words <<< "$line"
  case $line in *' ') words+=('') ;; esac
  cur=${words[${#words[@]} - 1]} prev=${words[${#words[@]} - 2]}
  case $cur in --*=*) prev=${cur%%=*} cur=${cur#*=} ;; esac
  for ((i = 1; i < ${#words[@]} - 1; i++)); do
    case ${words[i]} in
    -*) ;;
    *) if [ "$found" ]; then operands=$((operands + 1)); else found=1 command=${words[i]}; fi ;;
    esac
  done
  COMPREPLY=()
  case $command:$prev in
@VALUES@  esac
  if [ "${#words[@]}" -eq 2 ]; then
    COMPREPLY=($(compgen -W '@WORDS@ @OPTIONS@' -- "$cur"))
    return
  fi
  case $command in
@COMMANDS@  esac
}
complete -F _maxpool maxpool
