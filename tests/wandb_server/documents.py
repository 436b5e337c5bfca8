"""GraphQL documents over plain Python values, without a schema: what a value does not have is an error, not a gap.

A value is a dict from field to value, list, None, or function of the field's arguments. `__typename` decides which fragments apply.
"""

from graphql import FieldNode, FragmentDefinitionNode, FragmentSpreadNode, GraphQLSyntaxError, OperationDefinitionNode, Undefined, parse
from graphql.utilities import value_from_ast_untyped

INTERFACES = {"ArtifactSequence": "ArtifactCollection", "ArtifactPortfolio": "ArtifactCollection"}


class UnknownField(Exception):
    "The document asks for something that this server does not answer."


class Document:
    "One operation with its fragments and the values of its variables."

    def __init__(
        self,
        text: str,  # the document
        variables: dict,  # as sent
    ):
        try:
            definitions = parse(text, no_location=True).definitions
        except GraphQLSyntaxError as error:
            raise UnknownField(error.message) from error
        [self.operation] = [node for node in definitions if isinstance(node, OperationDefinitionNode)]
        self.fragments = {node.name.value: node for node in definitions if isinstance(node, FragmentDefinitionNode)}
        self.variables = self.with_defaults(variables)
        self.name = self.operation.name.value if self.operation.name else "anonymous"
        self.kind = self.operation.operation.value

    def with_defaults(self, variables: dict) -> dict:
        "Every declared variable has a value: the one sent, its default, or None."
        values = {}
        for declared in self.operation.variable_definitions or ():
            name = declared.variable.name.value
            default = value_from_ast_untyped(declared.default_value) if declared.default_value else None
            values[name] = variables.get(name, default)
        return values

    def execute(
        self,
        root: dict,  # what the operation's first fields are taken from
    ) -> dict:  # exactly the selected fields
        return self.select(root, self.operation.selection_set.selections)

    def select(self, value: dict, selections) -> dict:
        return {key: self.field(value, nodes) for key, nodes in self.collect(value, selections).items()}

    def collect(self, value: dict, selections) -> dict[str, list[FieldNode]]:
        "Field nodes by the name under which they are answered; one name may be selected by several fragments."
        found: dict[str, list[FieldNode]] = {}
        for node in selections:
            if not self.included(node):
                continue
            if isinstance(node, FieldNode):
                found.setdefault((node.alias or node.name).value, []).append(node)
                continue
            fragment = self.fragments[node.name.value] if isinstance(node, FragmentSpreadNode) else node
            if applies(fragment, value):
                for key, nodes in self.collect(value, fragment.selection_set.selections).items():
                    found.setdefault(key, []).extend(nodes)
        return found

    def included(self, node) -> bool:
        "What @include and @skip say."
        for directive in node.directives or ():
            condition = value_from_ast_untyped(directive.arguments[0].value, self.variables)
            if bool(condition) != (directive.name.value == "include"):
                return False
        return True

    def field(self, value: dict, nodes: list[FieldNode]):
        name = nodes[0].name.value
        given = nodes[0].arguments or ()
        arguments = {a.name.value: without_undefined(value_from_ast_untyped(a.value, self.variables)) for a in given}
        if name not in value:
            raise UnknownField(f"field {name!r} of {value.get('__typename', self.kind)}")
        answer = value[name]
        if callable(answer):
            try:
                answer = answer(**arguments)
            except TypeError as error:
                raise UnknownField(f"field {name!r} with {sorted(arguments)}: {error}") from error
        elif arguments:
            raise UnknownField(f"arguments {sorted(arguments)} of field {name!r}")
        return self.complete(answer, [selection for node in nodes if node.selection_set for selection in node.selection_set.selections])

    def complete(self, answer, selections):
        if answer is None or not selections:
            return answer
        if isinstance(answer, list):
            return [self.complete(item, selections) for item in answer]
        return self.select(answer, selections)


def applies(fragment, value: dict) -> bool:
    "Whether a fragment is meant for a value of this type."
    name = value.get("__typename")
    condition = fragment.type_condition.name.value if fragment.type_condition else name
    return name is None or condition in (name, INTERFACES.get(name))


def without_undefined(value):
    "Arguments whose variable was not sent are None."
    if isinstance(value, dict):
        return {key: without_undefined(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_undefined(item) for item in value]
    return None if value is Undefined else value
