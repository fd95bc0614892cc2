"""`bmg completion`: what a shell reads to complete commands and options."""

from __future__ import annotations

from bmg.launch.options import choose

# Names stand in the help of a command: in it they are true, whatever it is.
_BASH = r"""_bmg() {
    local word=${COMP_WORDS[COMP_CWORD]} given=("${COMP_WORDS[@]:1:COMP_CWORD-1}") names=() i
    for ((i = 0; i < ${#given[@]}; i++)); do
        [[ ${given[i]} == -* ]] && break
        names+=("${given[i]}")
    done
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$(bmg "${names[@]}" --help 2>/dev/null |
            grep -oE -- '--[a-z0-9][a-z0-9.-]*' | sort -u)" -- "$word"))
    elif ((${#names[@]} == COMP_CWORD - 1)); then
        COMPREPLY=($(compgen -W "$(bmg "${names[@]}" --help 2>/dev/null |
            sed -nE "s/^(  |bmg ${names[*]} )([a-z][a-z-]*)  +[^ ].*/\2/p")" -- "$word"))
        ((${#COMPREPLY[@]})) || COMPREPLY=($(compgen -f -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -F _bmg bmg
"""
_SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{_BASH}",
}
_MEANINGS = {
    "bash": 'in ~/.bashrc: eval "$(bmg completion bash)"',
    "zsh": 'in ~/.zshrc: eval "$(bmg completion zsh)"',
}


def main(arguments: list[str]) -> int:
    """Runs `bmg completion SHELL`: prints the script.

    Raises:
      ValueError: unknown shell; one line.
    """
    shell = choose("bmg completion", "shell", _MEANINGS, arguments)
    if shell is not None:
        print(_SCRIPTS[shell], end="")
    return 0
